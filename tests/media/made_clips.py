"""Clips made with the bundled ffmpeg; each frame's gray level is its number."""
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FRAMES, RATE = 17, 25
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "8", "-bf", "2", "-crf", "4")


def ffmpeg(*words, pipe: bytes | None = None) -> bytes:
    """Run the bundled ffmpeg and return its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)]
    done = subprocess.run(command, input=pipe, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def numbered(count: int = FRAMES, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Return frames (count, *size, 3) of 8 bits, each of its own gray."""
    levels = (20 + 12 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *size, 3))


def make(path: Path, *options, frames: np.ndarray | None = None, rate: int = RATE) -> Path:
    """Write frames to a file; `options` are those of ffmpeg for the output."""
    frames = numbered() if frames is None else frames
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-", *options, path,
           pipe=np.ascontiguousarray(frames).tobytes())
    return path


def numbers_of(clip: Sequence) -> list[int]:
    """Return the numbers of frames (T, 3, H, W) in [-1, 1]."""
    return [round((float(frame.mean() + 1) * 127.5 - 20) / 12) for frame in clip]
