"""Frames decoded by decord, where its account of a file is the right one."""
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from media.clip_file import Account

_KINDS = ("mov", "matroska")  # recognised for certain by decord too, which guesses the format of a file
_CODECS = ("h264", "hevc", "vp9")
_AGREEMENT = 1e-3  # seconds: above the rounding of decord's float32 timestamps, far below a frame's duration
_AT_ONCE = 2**28  # bytes of frames, as all of a long clip of large ones would not fit in memory


class UnlikeDecord(Exception):
    """An error of a file that decord cannot read, or reads wrong."""


def decord_frames(source: str | BinaryIO, account: Account, kind: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames of these indices, (H, W, 3) of 8 bits; raises UnlikeDecord, perhaps after some of them."""
    if account.times is None or kind not in _KINDS or account.codec not in _CODECS or not account.is_plain:
        raise UnlikeDecord
    if not account.is_closed:  # decord loses count when it skips to the next key frame
        raise UnlikeDecord
    try:
        import decord
    except (ImportError, OSError, RuntimeError) as problem:  # there are no packages of it for some systems
        raise UnlikeDecord from problem
    decord.logging.set_level(decord.logging.QUIET)  # errors are raised
    try:
        reader = decord.VideoReader(_openable(source), num_threads=1)  # the loader's workers read in parallel
        _compare(reader, account.times)
        yield from _in_batches(reader, indices, max(1, _AT_ONCE // (3 * account.first.height * account.first.width)))
    except (RuntimeError, ValueError, IndexError, OSError, decord.DECORDError) as problem:
        raise UnlikeDecord from problem


def _in_batches(reader, indices: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Yield the frames of indices that do not fall; decord is never sent back, which makes it count wrong."""
    wanted = sorted(set(indices))
    for at in range(0, len(wanted), size):
        batch = wanted[at:at + size]
        for index, frame in zip(batch, reader.get_batch(batch).asnumpy(), strict=True):
            yield from itertools.repeat(frame, indices.count(index))


def _openable(source: str | BinaryIO) -> str | BinaryIO:
    """Return a stream at its start, or a path that cannot be taken for an address."""
    if isinstance(source, (str, os.PathLike)):
        return os.path.abspath(source)
    source.seek(0)
    return source


def _compare(reader, times: np.ndarray) -> None:
    """Raise UnlikeDecord unless decord counts the same frames and gives them the same times."""
    if len(reader) != len(times):
        raise UnlikeDecord
    starts = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)[:, 0]
    if not (np.abs((starts - starts[0]) - (times[:, 0] - times[0, 0])) < _AGREEMENT + 1e-6 * times[-1, 1]).all():
        raise UnlikeDecord
