"""The kinds of video files that are read, recognised by their first bytes before any decoder opens them.

A decoder left to guess takes playlists and scripts that name other files or addresses, and opens those. Here a file is
one of the containers below, which hold all of a video themselves, or it is refused.
"""
import os
from typing import BinaryIO

from common.errors import DataError
from common.first_bytes import HEAD, named

# What a file of training data may be called. The bytes inside decide what it is.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".gif", ".ts", ".m2ts", ".mts",
                  ".mpg", ".mpeg", ".vob", ".ogv", ".flv", ".wmv", ".asf", ".mxf")

_LARGEST_INDEX = 2**26  # bytes of an mp4's index that are looked at


class UnreadableClip(DataError):
    """An error of one clip, without which a data set can still be used."""


def clip_kind(head: bytes) -> str:
    """Return the demuxer for a file that starts with `head`; raises UnreadableClip, naming what it is, for others."""
    what = named(head)
    if what.demuxer is None:
        raise UnreadableClip(f"not a video but {what.name}{what.remedy and '; '}{what.remedy}")
    return what.demuxer


def is_cut_off(file: BinaryIO, kind: str) -> bool:
    """Return whether a file ends before the length or the trailer that its container gives, where packets hide it."""
    end = file.seek(0, os.SEEK_END)
    if kind == "gif":
        file.seek(-min(end, HEAD), os.SEEK_END)
        return not file.read().rstrip(b"\0").endswith(b";")
    file.seek(0)
    head, at = file.read(HEAD), 0
    if kind == "avi":
        return int.from_bytes(head[4:8], "little") + 8 > end > 0 and head[4:8] != b"\xff\xff\xff\xff"
    if kind != "matroska":
        return False
    for _ in ("header", "segment"):
        at, size = _element(head, at)
        if size is None:
            return False
        at += size
    return at > end


def names_another_file(file: BinaryIO) -> bool:
    """Return whether an mp4 or mov has its frames in another file, as QuickTime's reference movies do."""
    end, at = file.seek(0, os.SEEK_END), 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:
            size = int.from_bytes(head[8:16])
        if head[4:8] == b"moov":
            file.seek(at)
            return _refers_elsewhere(file.read(min(size or end, _LARGEST_INDEX)))
        if size < 8:
            break
        at += size
    return False


def _refers_elsewhere(moov: bytes) -> bool:
    """Return whether a data reference of an index lacks the flag that says that the data are in the same file."""
    for content in moov.split(b"dref")[1:]:
        kind, flags = content[12:16], content[16:20]  # of the first entry, after the table's own version and count
        if kind in (b"url ", b"alis", b"rsrc", b"urn ") and not flags[-1:] == b"\x01":
            return True
    return False


def _element(head: bytes, at: int) -> tuple[int, int | None]:
    """Return where the content of a Matroska element starts, and its length; None if unknown, as in live recordings."""
    def width(position: int) -> int:
        return 9 - head[position].bit_length() if position < len(head) and head[position] else 8

    at += width(at)
    bits = 7 * width(at)
    size = int.from_bytes(head[at:at + width(at)]) & ((1 << bits) - 1)
    return at + width(at), None if size == (1 << bits) - 1 or at >= len(head) else size
