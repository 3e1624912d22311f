"""The difference of two videos in decibels, frame by frame."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np

from common.decibels import psnr
from common.errors import DataError

DEFAULT_RATE = 8.0


@dataclass(frozen=True)
class Decibels:
    """Peak signal-to-noise ratio in dB of each frame, and of the whole video; infinite for equal frames."""

    frames: tuple[float, ...]
    whole: float


def decibels(one: Path, other: Path) -> Decibels:
    """Return the PSNR of 8-bit values of two videos. Raises DataError if their sizes or lengths differ."""
    return _decibels(one, one.stat().st_mtime_ns, other, other.stat().st_mtime_ns)


@lru_cache(maxsize=500)
def _decibels(one: Path, _time: int, other: Path, _other_time: int) -> Decibels:
    errors = []
    with _frames(one) as first, _frames(other) as second:
        for a, b in zip_longest(first, second):
            if a is None or b is None:
                raise DataError("another number of frames than the reference: no difference")
            if a.shape != b.shape:
                raise DataError(f"{b.shape[1]} x {b.shape[0]} pixels, the reference {a.shape[1]} x {a.shape[0]}: no "
                                "difference")
            errors.append(float(np.square(a.astype(np.float32) - b).mean()))
    if not errors:
        raise DataError(f"{one.name} has no frames")
    return Decibels(tuple(psnr(error, 255) for error in errors), psnr(sum(errors) / len(errors), 255))


@contextmanager
def _frames(path: Path) -> Iterator[Iterator[np.ndarray]]:
    """Context manager that yields an iterator over frames (H, W, 3). Raises DataError for what cannot be decoded."""
    try:
        with av.open(f"file:{path}", format="mp4") as container:
            yield (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:
        raise DataError(f"{path.name} cannot be decoded ({type(error).__name__})") from error


def frames_and_rate(path: Path) -> tuple[int, float]:
    """Return a video's number of frames and its frame rate. Raises DataError for what cannot be decoded."""
    try:
        with av.open(f"file:{path}", format="mp4") as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or DEFAULT_RATE)
            return max(stream.frames or sum(1 for _ in container.decode(stream)), 1), rate
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:
        raise DataError(f"{path.name} cannot be decoded ({type(error).__name__})") from error
