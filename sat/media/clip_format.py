"""The format to which clips are brought, the choice among several, and which frames of a file it takes."""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.compression import COGVIDEOX
from common.errors import ConfigError
from common.kinds import Count, Rate, Sides, Size
from common.typed import typed
from media.containers import UnreadableClip

CLOCK_ERROR = 1e-3  # seconds: above the rounding of times in most containers, far below a frame's duration


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
    several = isinstance(video_size, Sequence) and len(video_size) > 0 and all(
        isinstance(size, Sequence) and not isinstance(size, str) for size in video_size)
    sizes = list(video_size) if several else [video_size]
    many = isinstance(max_num_frames, Sequence) and not isinstance(max_num_frames, str)
    lengths: list = list(max_num_frames) if many else [max_num_frames]  # type: ignore[arg-type]
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


def wanted_frames(timestamps: np.ndarray, form: ClipFormat, clock_error: float = CLOCK_ERROR) -> list[int]:
    """Return the indices of the frames on display at times 0, 1/fps, 2/fps, … after the first usable frame.

    `timestamps` (N, 2) are the start and end of each frame's display in seconds, so that a file of any rate, even a
    varying one, plays at its true speed; they may be late by `clock_error`. At most `max_num_frames`, and none after
    the file's end. Raises UnreadableClip if no frame is usable.
    """
    skip = form.skip_frms_num
    usable = timestamps[skip : len(timestamps) - skip]
    if len(usable) == 0:
        raise UnreadableClip(f"only {len(timestamps)} frames, and skip_frms_num leaves out {skip} at each end")
    times = usable[0, 0] + np.arange(form.max_num_frames) / form.fps
    times = times[times < max(usable[-1, 1] - clock_error, usable[0, 0] + clock_error)]
    shown = np.searchsorted(usable[:, 0], times + clock_error, side="right") - 1
    return [skip + int(index) for index in shown]


def covers(starts: Sequence[float], form: ClipFormat) -> bool:
    """Return whether the frames that start at these times are all that `wanted_frames` can depend on."""
    skip = form.skip_frms_num
    if len(starts) <= 2 * skip + 1:
        return False
    return starts[-1 - skip] > starts[skip] + form.max_num_frames / form.fps
