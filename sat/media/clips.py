"""Reading of a clip from a video file: choice of frames, size and range of values.

PyAV first gives an account of a file. decord, the usual reader, then decodes it where the account holds nothing that
decord gets wrong, and decord's own account agrees with it; PyAV decodes all others.
"""
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from av import VideoFrame
from torch import Tensor

from media.clip_file import Account, ClipFile
from media.clip_format import ClipFormat, clip_forms, fitting_form, wanted_frames
from media.containers import VIDEO_SUFFIXES, UnreadableClip, clip_kind
from media.decord_frames import UnlikeDecord, decord_frames
from media.display import Display, displayed_size
from media.images import resize_cover_crop

__all__ = ["VIDEO_SUFFIXES", "ClipFormat", "UnreadableClip", "clip_forms", "clip_kind", "fitting_form", "probe_clip",
           "read_clip", "read_frames"]

_AGREEMENT = 1e-3  # seconds: above the rounding of times in containers, far below a frame's duration


class _Disagreement(Exception):
    """An error of a file whose decoded frames are not those that its packets announce."""


class Probe(NamedTuple):
    """A clip's height and width as shown, how many frames `read_clip` finds, and how many are again the one before."""

    height: int
    width: int
    frames: int
    repeated: int


def probe_clip(source: str | BinaryIO, form: ClipFormat) -> Probe:
    """Return what there is to know of a clip without decoding it, where that can be. Raises UnreadableClip."""
    with _opened(source) as clip:
        account = clip.account()
        times = clip.decoded_times(form) if account.times is None else account.times
        wanted = wanted_frames(times, form, clip.clock_error)
        repeated = len(wanted) - len(set(wanted))
        return Probe(*displayed_size(account.first, account.aspect), len(wanted), repeated)


def read_clip(source: str | BinaryIO, form: ClipFormat) -> tuple[Tensor, int]:
    """Read a video file (a path, or a binary stream of one) into the format of a data set.

    Returns (T, 3, H, W) float32 in [-1, 1] with T = `max_num_frames`, the last frame repeated if the file is
    short, and how many of the T frames are real. Raises UnreadableClip.
    """
    with _opened(source) as clip:
        account = clip.account()
        frames = _announced(clip, account, source if isinstance(source, (str, os.PathLike)) else clip.file, form)
        if frames is None:
            wanted = wanted_frames(clip.decoded_times(form), form, clip.clock_error)
            frames = _taken(clip.frames(), wanted, Display(account.aspect), form)
    real = torch.stack(frames)
    padding = real[-1:].expand(form.max_num_frames - len(real), -1, -1, -1)
    return torch.cat([real, padding]), len(real)


def read_frames(source: str | BinaryIO) -> np.ndarray:
    """Return all frames of a video file as players show them, (N, H, W, 3) of 8 bits. Raises UnreadableClip."""
    with _opened(source) as clip:
        display = Display(clip.account().aspect)
        return np.stack([display.to_rgb(frame) for frame in clip.frames()])


@contextmanager
def _opened(source: str | BinaryIO) -> Iterator[ClipFile]:
    if not isinstance(source, (str, os.PathLike)):
        yield ClipFile(source if source.seekable() else io.BytesIO(source.read()))
        return
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            raise UnreadableClip("not a file")
        file = open(source, "rb")
    except (OSError, ValueError) as problem:
        raise UnreadableClip(f"cannot be opened ({getattr(problem, 'strerror', None) or problem})") from problem
    with file:
        yield ClipFile(file)


def _announced(clip: ClipFile, account: Account, source: str | BinaryIO, form: ClipFormat) -> list[Tensor] | None:
    """Return the wanted ones of the frames that the packets announce; None if only decoding tells which there are."""
    if account.times is None:
        return None
    wanted = wanted_frames(account.times, form)
    try:
        return [_fitted(frame, form) for frame in decord_frames(source, account, clip.kind, wanted)]
    except UnlikeDecord:
        pass
    try:
        return _taken(_as_announced(clip.frames(), account.times), wanted, Display(account.aspect), form)
    except _Disagreement:
        return None


def _as_announced(frames: Iterable[VideoFrame], times: np.ndarray) -> Iterator[VideoFrame]:
    """Yield the frames; raises _Disagreement if one has another time, or there are fewer."""
    origin = None
    for start, frame in zip(times[:, 0] - times[0, 0], frames, strict=False):
        origin = frame.time if origin is None else origin
        if frame.time is None or origin is None or abs(frame.time - origin - start) > _AGREEMENT:
            raise _Disagreement
        yield frame
    raise _Disagreement


def _taken(frames: Iterable[VideoFrame], wanted: Sequence[int], display: Display, form: ClipFormat) -> list[Tensor]:
    """Return the frames of these indices, which may repeat, without decoding any after the last."""
    found: dict[int, Tensor] = {}
    for index, frame in enumerate(frames):
        if index in wanted:
            found[index] = _fitted(display.to_rgb(frame), form)
        if index == wanted[-1]:
            break
    return [found[index] for index in wanted]


def _fitted(frame: np.ndarray, form: ClipFormat) -> Tensor:
    """Convert a frame (h, w, 3) uint8 to (3, H, W); one at a time, as a large file in float would not fit in memory."""
    image = torch.from_numpy(frame).permute(2, 0, 1).to(torch.float32) / 127.5 - 1
    height, width = form.video_size
    return resize_cover_crop(image, (height, width))
