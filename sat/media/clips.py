"""Reading of a clip from a video file: choice of frames, size and range of values."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.compression import COGVIDEOX
from common.errors import ConfigError, DataError
from common.kinds import Count, Rate, Sides, Size
from common.typed import typed
from media.images import resize_cover_crop

_CLOCK_TOLERANCE = 1e-3  # seconds: above the rounding of decord's float32 timestamps, far below a frame's duration


class UnreadableClip(DataError):
    """An error of one clip, without which a data set can still be used."""


@dataclass(frozen=True)
class ClipFormat:
    """The size, rate and length to which every clip of a data set is brought."""

    video_size: Sides  # (height, width); kept as a tuple
    fps: Rate
    max_num_frames: Size
    skip_frms_num: Count = 0  # frames of the file that are left out at each end

    def __post_init__(self):
        for name, value in typed(ClipFormat, vars(self), "data.params").items():
            object.__setattr__(self, name, tuple(value) if name == "video_size" else value)
        if not COGVIDEOX.has_length(self.max_num_frames):
            step = COGVIDEOX.time
            nearest = max(1, step * round((self.max_num_frames - 1) / step) + 1)
            raise ConfigError(f"max_num_frames: {self.max_num_frames} is not of the form {step}k + 1: use {nearest}")

    @property
    def name(self) -> str:
        """The format as `HEIGHTxWIDTHxFRAMES`."""
        return "x".join(map(str, (*self.video_size, self.max_num_frames)))


def clip_forms(video_size: Sequence, fps: float, max_num_frames: int | Sequence[int], skip_frms_num: int = 0
               ) -> list[ClipFormat]:
    """Return a format for each pair of a size and a length; `video_size` and `max_num_frames` may each be several."""
    several = len(video_size) > 0 and all(isinstance(size, Sequence) for size in video_size)
    sizes = list(video_size) if several else [video_size]
    lengths = list(max_num_frames) if isinstance(max_num_frames, Sequence) else [max_num_frames]
    forms = [ClipFormat(size, fps, length, skip_frms_num) for size in sizes for length in lengths]
    if not forms or len(set(forms)) < len(forms):
        raise ConfigError(f"max_num_frames: {lengths} with video_size: {sizes} must give at least one pair, and no "
                          "pair twice")
    return forms


def fitting_form(forms: Sequence[ClipFormat], height: int, width: int, frames: int) -> ClipFormat:
    """Return the format that loses least of a video: nearest in shape, then largest, then longest.

    Among the formats of the nearest shape, the video must not need enlarging, and its `frames` must fill the length. A
    video that is too small or short for all gets the smallest or shortest.
    """
    def mismatch(form: ClipFormat) -> float:
        return round(abs(math.log(form.video_size[0] / form.video_size[1] * width / height)), 6)

    def unmet(form: ClipFormat) -> tuple:
        too_large = form.video_size[0] > height or form.video_size[1] > width
        area = math.prod(form.video_size)
        too_long = form.max_num_frames > frames
        return (mismatch(form), too_large, area if too_large else -area,
                too_long, form.max_num_frames if too_long else -form.max_num_frames)

    return min(forms, key=unmet)


def probe_clip(source: str, form: ClipFormat) -> tuple[int, int, int]:
    """Return a file's height and width in pixels, and how many frames `read_clip` would find. Raises UnreadableClip."""
    with _opened(source, form) as (reader, indices):
        height, width, _ = reader[0].shape
        return height, width, len(indices)


def read_clip(source: str | BinaryIO, form: ClipFormat) -> tuple[Tensor, int]:
    """Read a video file (a path, or a binary stream of one) into the format of a data set.

    Returns (T, 3, H, W) float32 in [-1, 1] with T = `max_num_frames`, the last frame repeated if the file is
    short, and how many of the T frames are real. Raises UnreadableClip.
    """
    with _opened(source, form) as (reader, indices):
        frames = reader.get_batch(indices).asnumpy()
    clip = torch.stack([_to_clip_frame(frame, form) for frame in frames])
    padding = clip[-1:].expand(form.max_num_frames - len(clip), -1, -1, -1)
    return torch.cat([clip, padding]), len(clip)


def count_frames(source: str, form: ClipFormat) -> int:
    """Return how many frames `read_clip` would find in a file, at most `max_num_frames`. Raises UnreadableClip."""
    with _opened(source, form) as (_, indices):
        return len(indices)


@contextmanager
def _opened(source: str | BinaryIO, form: ClipFormat) -> Iterator[tuple]:
    """Context manager that gives decord's reader and the indices of the wanted frames.

    Errors that the file causes are raised as UnreadableClip.
    """
    decord = _import_decord()
    try:
        # One thread per file, because the loader's workers read in parallel.
        reader = decord.VideoReader(source, num_threads=1)
        timestamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
        yield reader, wanted_frames(timestamps, form)
    except (RuntimeError, ValueError, IndexError, OSError, decord.DECORDError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UnreadableClip(f"damaged or not a video ({reason})") from problem


def wanted_frames(timestamps: np.ndarray, form: ClipFormat) -> list[int]:
    """Return the indices of the frames on display at times 0, 1/fps, 2/fps, … after the first usable frame.

    `timestamps` (N, 2) are the start and end of each frame's display in seconds, so that a file of any rate, even a
    varying one, plays at its true speed. At most `max_num_frames`, and none after the file's end. Raises
    UnreadableClip if no frame is usable.
    """
    skip = form.skip_frms_num
    usable = timestamps[skip : len(timestamps) - skip]
    if len(usable) == 0:
        raise UnreadableClip(f"only {len(timestamps)} frames, and skip_frms_num leaves out {skip} at each end")
    times = usable[0, 0] + np.arange(form.max_num_frames) / form.fps
    times = times[times < max(usable[-1, 1] - _CLOCK_TOLERANCE, usable[0, 0] + _CLOCK_TOLERANCE)]
    shown = np.searchsorted(usable[:, 0], times + _CLOCK_TOLERANCE, side="right") - 1
    return [skip + int(index) for index in shown]


def _to_clip_frame(frame: np.ndarray, form: ClipFormat) -> Tensor:
    """Convert a frame (h, w, 3) uint8 to (3, H, W); one at a time, as a large file in float would not fit in memory."""
    image = torch.from_numpy(frame).permute(2, 0, 1).to(torch.float32) / 127.5 - 1
    height, width = form.video_size
    return resize_cover_crop(image, (height, width))


def _import_decord():
    try:
        import decord
    except ImportError as problem:
        raise DataError("reading videos needs decord, which is not installed: pip install decord") from problem
    return decord
