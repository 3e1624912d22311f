"""The kinds of video files that are read, recognised by their first bytes before any decoder opens them.

A decoder left to guess takes playlists and scripts that name other files or addresses, and opens those. Here a file is
one of the containers below, which hold all of a video themselves, or it is refused.
"""
import os
from typing import BinaryIO

from common.errors import DataError

# What a file of training data may be called. The bytes inside decide what it is.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".gif", ".ts", ".m2ts", ".mts",
                  ".mpg", ".mpeg", ".vob", ".ogv", ".flv", ".wmv", ".asf", ".mxf")
HEAD = 4096  # bytes that suffice to recognise a file

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"pdin",
          b"uuid", b"emsg", b"junk")
_STARTS = {b"\x1aE\xdf\xa3": "matroska", b"GIF87a": "gif", b"GIF89a": "gif", b"OggS": "ogg", b"FLV\x01": "flv",
           b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf", b"\x06\x0e\x2b\x34": "mxf", b"\x00\x00\x01\xba": "mpeg",
           b"\x00\x00\x01\xb3": "mpegvideo"}
_PLAYLIST = "a playlist, which names other files"
_PAGE = "an HTML page, as failed downloads leave"
_TEXTS = {"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
          "#extm3u": _PLAYLIST, "[playlist]": _PLAYLIST, "[reference]": _PLAYLIST, "rtsptext": _PLAYLIST,
          "<asx": _PLAYLIST, "<smil": _PLAYLIST, "<!doctype html": _PAGE, "<html": _PAGE,
          "ffconcat version": "a concat script, which names other files",
          "v=0": "a session description (SDP), which names an address"}
_XML = {"<mpd": "a DASH manifest, which names other files", "<smil": _PLAYLIST, "<playlist": _PLAYLIST,
        "<smoothstreamingmedia": "a manifest, which names other files", "<html": _PAGE, "<svg": "a drawing (SVG)"}
_OTHERS = {b"\x89PNG": "a picture (PNG)", b"\xff\xd8\xff": "a picture (JPEG)", b"BM": "a picture (BMP)",
           b"II*\x00": "a picture (TIFF)", b"MM\x00*": "a picture (TIFF)", b"8BPS": "a picture (PSD)",
           b"PK\x03\x04": "an archive (ZIP); unpack it", b"\x1f\x8b": "an archive (gzip); unpack it",
           b"7z\xbc\xaf": "an archive (7z); unpack it", b"Rar!": "an archive (RAR); unpack it",
           b"ID3": "sound alone", b"fLaC": "sound alone", b"\xff\xfb": "sound alone", b"\xff\xf3": "sound alone",
           b"\x00\x05\x16\x07": "what macOS notes about another file; delete it",
           b"\x00\x00\x00\x01": "a bare stream without times; wrap it with ffmpeg -i IN -c copy OUT.mp4"}
_STILLS = (b"avif", b"heic", b"heix", b"mif1")


class UnreadableClip(DataError):
    """An error of one clip, without which a data set can still be used."""


def clip_kind(head: bytes) -> str:
    """Return the demuxer for a file that starts with `head`; raises UnreadableClip, naming what it is, for others."""
    kind = _container(head)
    if kind is None:
        raise UnreadableClip(f"not a video but {_what(head)}")
    return kind


def _container(head: bytes) -> str | None:
    if head[4:8] in _BOXES:
        return None if head[4:12] in {b"ftyp" + brand for brand in _STILLS} else "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for first, step in ((0, 188), (4, 192)):  # transport streams, and those with a time before each packet
        marks = head[first::step]
        if len(marks) > 2 and set(marks) == {0x47}:
            return "mpegts"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


def _what(head: bytes) -> str:
    """Name a file that is not one of the containers."""
    if not head:
        return "an empty file"
    if head[:4] == b"RIFF":
        return {b"WEBP": "a picture (WebP)", b"WAVE": "sound alone"}.get(head[8:12], "an unknown RIFF file")
    if head[4:8] == b"ftyp":
        return "a picture (AVIF or HEIC)"
    known = next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    return known or _named_text(head) or ("zero bytes alone" if not any(head) else "data of an unknown format")


def _named_text(head: bytes) -> str | None:
    """Name a text file; None if the bytes are no text."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1").lstrip().lower()
    for start, name in _TEXTS.items():
        if text.startswith(start):
            return name
    if text.startswith("<"):
        return next((name for tag, name in _XML.items() if tag in text), "an XML file")
    control = any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text)
    return None if control else "a text file"


def is_cut_off(file: BinaryIO, kind: str) -> bool:
    """Return whether a file ends before the length or the trailer that its container gives, where packets hide it."""
    end = file.seek(0, os.SEEK_END)
    if kind == "gif":
        file.seek(-min(end, HEAD), os.SEEK_END)
        return not file.read().rstrip(b"\0").endswith(b";")
    if kind != "matroska":
        return False
    file.seek(0)
    head, at = file.read(HEAD), 0
    for _ in ("header", "segment"):
        at, size = _element(head, at)
        if size is None:
            return False
        at += size
    return at > end


def _element(head: bytes, at: int) -> tuple[int, int | None]:
    """Return where the content of a Matroska element starts, and its length; None if unknown, as in live recordings."""
    def width(position: int) -> int:
        return 9 - head[position].bit_length() if position < len(head) and head[position] else 8

    at += width(at)
    bits = 7 * width(at)
    size = int.from_bytes(head[at:at + width(at)]) & ((1 << bits) - 1)
    return at + width(at), None if size == (1 << bits) - 1 or at >= len(head) else size
