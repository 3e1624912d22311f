"""The output files of a run: videos, contact sheets, latents, and the record of how each was made."""
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import NumericalError
from common.files import whole_file

VIDEO, SHEET = "000000.mp4", "frames.png"
# Constant rate factor of H.264: 0 is lossless, 18 is commonly called visually lossless.
QUALITY = 8
SHEET_FRAMES = 24
SHEET_COLUMNS = 6


def to_pixels(frames: Tensor) -> np.ndarray:
    """Convert frames (3, t, H, W) in [-1, 1] to (t, H, W, 3) of 8 bits. Raises NumericalError if any is not finite."""
    if not torch.isfinite(frames).all():
        raise NumericalError("decoding: the frames are not finite; decode in a wider dtype (bf16 or fp32)")
    unit = frames.float().clamp(-1, 1).add(1).div(2)
    return unit.mul(255).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def write_video(path: Path, chunks: Iterable[np.ndarray], fps: int) -> None:
    """Write consecutive chunks (t, H, W, 3) of 8 bits as H.264, each as it comes; the file appears when complete.

    Raises ValueError without frames.
    """
    with whole_file(path) as partial:
        encoder = None
        try:
            for chunk in chunks:
                encoder = encoder or _encoder(partial, chunk.shape[2], chunk.shape[1], fps)
                for frame in chunk:
                    encoder.send(np.ascontiguousarray(frame))
        finally:  # also if a chunk fails, so that the encoder's process closes the file
            if encoder is not None:
                encoder.close()
        if encoder is None:
            raise ValueError("a video needs at least one frame")


def _encoder(path: Path, width: int, height: int, fps: int) -> Generator[None, np.ndarray, None]:
    import imageio_ffmpeg
    encoder = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, codec="libx264", quality=None,
                                          macro_block_size=1, output_params=["-crf", str(QUALITY)])
    encoder.send(None)
    return encoder


def write_outputs(folder: Path, chunks: Iterable[Tensor], fps: int) -> None:
    """Write the mp4 of decoded chunks (3, t, H, W), and its contact sheet."""
    frames: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for chunk in chunks:
            frames.append(to_pixels(chunk))
            yield frames[-1]

    write_video(folder / VIDEO, pixels(), fps)
    write_contact_sheet(folder / SHEET, np.concatenate(frames))


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """Write a picture of at most 24 frames, evenly spread over the video and tiled row by row."""
    from PIL import Image
    count = min(len(frames), SHEET_FRAMES)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    with whole_file(path) as partial:
        Image.fromarray(tiled(chosen, min(count, SHEET_COLUMNS))).save(partial)


def tiled(frames: np.ndarray, columns: int) -> np.ndarray:
    """Return one picture with frames (n, H, W, 3) tiled row by row, and white lines of two pixels around them."""
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[top:top + height, left:left + width] = frame
    return sheet
