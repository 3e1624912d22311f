"""One training clip out of one video file: which frames, which size, which range of values."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from media.images import resize_cover_crop

_CLOCK_TOLERANCE = 1e-3  # seconds; decord's timestamps are float32, far finer than any frame


class UnreadableClip(DataError):
    """This clip cannot be used; the data set may have others."""


@dataclass(frozen=True)
class ClipFormat:
    """What every clip of a data set is brought to."""

    video_size: Sequence[int]  # (height, width); kept as a tuple
    fps: float
    max_num_frames: int
    skip_frms_num: int = 0  # frames of the file that are left out at each end

    def __post_init__(self):
        size = tuple(self.video_size)
        if len(size) != 2 or any(side != int(side) or side < 1 for side in size):
            raise ConfigError(f"video_size: {self.video_size} is not [height, width] in pixels")
        object.__setattr__(self, "video_size", tuple(map(int, size)))
        if not self.fps > 0:
            raise ConfigError(f"fps: {self.fps} is not a positive number of frames a second")
        if self.max_num_frames < 1 or self.max_num_frames % 4 != 1:
            nearest = max(1, 4 * round((self.max_num_frames - 1) / 4) + 1)
            raise ConfigError(f"max_num_frames: {self.max_num_frames} is not 4k + 1 frames: use {nearest}")
        if self.skip_frms_num < 0:
            raise ConfigError(f"skip_frms_num: {self.skip_frms_num} is negative: use 0 or more")

    @property
    def name(self) -> str:
        """`HEIGHTxWIDTHxFRAMES`."""
        return "x".join(map(str, (*self.video_size, self.max_num_frames)))


def clip_forms(video_size: Sequence, fps: float, max_num_frames: int | Sequence[int], skip_frms_num: int = 0
               ) -> list[ClipFormat]:
    """One format for each pair of a size and a length: `video_size` may be several, `max_num_frames` too."""
    several = len(video_size) > 0 and all(isinstance(size, Sequence) for size in video_size)
    sizes = list(video_size) if several else [video_size]
    lengths = list(max_num_frames) if isinstance(max_num_frames, Sequence) else [max_num_frames]
    forms = [ClipFormat(size, fps, length, skip_frms_num) for size in sizes for length in lengths]
    if not forms or len(set(forms)) < len(forms):
        raise ConfigError(f"max_num_frames: {lengths} with video_size: {sizes} must name each pair once, and at "
                          "least one")
    return forms


def fitting_form(forms: Sequence[ClipFormat], height: int, width: int, frames: int) -> ClipFormat:
    """The format that loses least of a video: the nearest shape, of these the largest that need not be enlarged, of
    these the longest that the video's `frames` fill. Too small or short a video gets the smallest or shortest."""
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
    """Height and width of a file in pixels, and how many frames `read_clip` would find. Raises UnreadableClip."""
    with _opened(source, form) as (reader, indices):
        height, width, _ = reader[0].shape
        return height, width, len(indices)


def read_clip(source: str | BinaryIO, form: ClipFormat) -> tuple[Tensor, int]:
    """Reads a video file (a path, or a binary stream of one) into the format of a data set.

    Returns (T, 3, H, W) float32 in [-1, 1] with T = `max_num_frames`, the last frame repeated when the file is
    short, and how many of the T frames are real. Raises UnreadableClip.
    """
    with _opened(source, form) as (reader, indices):
        frames = reader.get_batch(indices).asnumpy()
    clip = torch.stack([_to_clip_frame(frame, form) for frame in frames])
    padding = clip[-1:].expand(form.max_num_frames - len(clip), -1, -1, -1)
    return torch.cat([clip, padding]), len(clip)


def count_frames(source: str, form: ClipFormat) -> int:
    """How many frames of a file `read_clip` would find, at most `max_num_frames`. Raises UnreadableClip."""
    with _opened(source, form) as (_, indices):
        return len(indices)


@contextmanager
def _opened(source: str | BinaryIO, form: ClipFormat) -> Iterator[tuple]:
    """decord's reader and the indices of the wanted frames; what goes wrong with the file is UnreadableClip."""
    decord = _import_decord()
    try:
        # One thread each: the loader's workers are the parallelism.
        reader = decord.VideoReader(source, num_threads=1)
        timestamps = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
        yield reader, wanted_frames(timestamps, form)
    except (RuntimeError, ValueError, IndexError, OSError, decord.DECORDError) as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UnreadableClip(f"damaged or not a video ({reason})") from problem


def wanted_frames(timestamps: np.ndarray, form: ClipFormat) -> list[int]:
    """Indices of the frames on display at times 0, 1/fps, 2/fps, … after the first usable frame.

    `timestamps` (N, 2) are the start and end of each frame's display in seconds, so that a file of any rate, a
    varying one included, plays at its true speed. At most `max_num_frames`, and none after the file's end.
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
    """(h, w, 3) uint8 to (3, H, W); frame by frame, as a large file in float would not fit in memory."""
    image = torch.from_numpy(frame).permute(2, 0, 1).to(torch.float32) / 127.5 - 1
    height, width = form.video_size
    return resize_cover_crop(image, (height, width))


def _import_decord():
    try:
        import decord
    except ImportError as problem:
        raise DataError("reading videos needs decord, which is not installed: pip install decord") from problem
    return decord
