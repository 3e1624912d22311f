"""Formats of files by their first bytes: what a file is that is not what its name says, and what helps then."""
import re
from dataclasses import dataclass

HEAD = 4096  # bytes that suffice


@dataclass(frozen=True)
class Known:
    """A known format: its `name` with its article, what helps where it is not wanted (if anything does), and for
    videos the demuxer of ffmpeg that reads it."""

    name: str
    remedy: str = ""
    demuxer: str | None = None


_UNPACK = "unpack it"
_GIF, _MATROSKA = Known("a picture (GIF)", "", "gif"), Known("a video (Matroska or WebM)", "", "matroska")
_MP4 = Known("a video (MP4 or QuickTime)", "", "mov")
_TRANSPORT = Known("a video (MPEG-TS)", "", "mpegts")
_STARTS = {
    b"\x89PNG": Known("a picture (PNG)"), b"\xff\xd8\xff": Known("a picture (JPEG)"), b"GIF87a": _GIF, b"GIF89a": _GIF,
    b"BM": Known("a picture (BMP)"), b"II*\x00": Known("a picture (TIFF)"), b"MM\x00*": Known("a picture (TIFF)"),
    b"II+\x00": Known("a picture (BigTIFF)"), b"MM\x00+": Known("a picture (BigTIFF)"),
    b"8BPS": Known("a picture (Photoshop)"), b"\x76\x2f\x31\x01": Known("a picture (OpenEXR)"),
    b"#?RADIANCE": Known("a picture (Radiance HDR)"), b"\xff\x0a": Known("a picture (JPEG XL)"),
    b"\x00\x00\x00\x0cJXL ": Known("a picture (JPEG XL)"), b"\x00\x00\x00\x0cjP  ": Known("a picture (JPEG 2000)"),
    b"\x00\x00\x01\x00": Known("an icon (ICO)"),
    b"%!PS": Known("a PostScript program"), b"\xc5\xd0\xd3\xc6": Known("a PostScript program"),
    b"%PDF": Known("a PDF document"),
    b"\x1aE\xdf\xa3": _MATROSKA, b"FLV\x01": Known("a video (FLV)", "", "flv"),
    b"OggS": Known("a video or sound (Ogg)", "", "ogg"),
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": Known("a video (WMV)", "", "asf"),
    b"\x06\x0e\x2b\x34": Known("a video (MXF)", "", "mxf"),
    b"\x00\x00\x01\xba": Known("a video (MPEG)", "", "mpeg"),
    b"\x00\x00\x01\xb3": Known("a video (MPEG)", "", "mpegvideo"),
    b"\x00\x00\x00\x01": Known("a bare stream without times", "wrap it with ffmpeg -r RATE -i IN -c copy OUT.mp4"),
    b"ID3": Known("sound alone"), b"fLaC": Known("sound alone"), b"\xff\xfb": Known("sound alone"),
    b"\xff\xf3": Known("sound alone"),
    b"PK": Known("a ZIP archive", _UNPACK), b"\x1f\x8b": Known("a gzip archive", _UNPACK),
    b"7z\xbc\xaf": Known("a 7z archive", _UNPACK), b"Rar!": Known("a RAR archive", _UNPACK),
    b"\xfd7zXZ": Known("an xz archive", _UNPACK), b"\x28\xb5\x2f\xfd": Known("a zstd archive", _UNPACK),
    b"BZh": Known("a bzip2 archive", _UNPACK),
    b"GGUF": Known("a GGUF file"), b"\x89HDF": Known("an HDF5 file"), b"\x93NUMPY": Known("a NumPy array"),
    b"\x00\x05\x16\x07": Known("what macOS notes about another file", "delete it"),
}
_RIFF = {b"WEBP": Known("a picture (WebP)"), b"AVI ": Known("a video (AVI)", "", "avi"), b"WAVE": Known("sound alone")}
_PICTURE_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC",
                   b"mif1": "HEIC", b"msf1": "HEIC"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"pdin",
          b"uuid", b"emsg", b"junk")
_TAR = (257, b"ustar")  # where it stands in the file
_EMPTY = Known("an empty file", "copy or download it again")
_ZEROS = Known("zero bytes alone", "copy or download it again, as the download never finished")
_PAGE = Known("an HTML page, as failed downloads leave", "open its address in a browser, then download it again")
_PLAYLIST = Known("a playlist, which names other files")
_TEXTS = {"version https://git-lfs": Known("a Git LFS pointer", "fetch the file itself with git lfs pull"),
          "#extm3u": _PLAYLIST, "[playlist]": _PLAYLIST, "[reference]": _PLAYLIST, "rtsptext": _PLAYLIST,
          "<asx": _PLAYLIST, "<smil": _PLAYLIST,
          "ffconcat version": Known("a concat script, which names other files"),
          "v=0": Known("a session description (SDP), which names an address")}
_TAGS = {"<mpd": Known("a DASH manifest, which names other files"), "<smil": _PLAYLIST, "<playlist": _PLAYLIST,
         "<smoothstreamingmedia": Known("a manifest, which names other files"), "<error": _PAGE, "<html": _PAGE,
         "<svg": Known("a drawing (SVG)")}
_HTML = re.compile(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.DOTALL)


def named(head: bytes) -> Known:
    """Return what a file is that starts with `head`, also a text file or data of an unknown format."""
    return known(head) or Known("data of an unknown format" if _text(head) is None else "a text file")


def known(head: bytes) -> Known | None:
    """Return the format of a file that starts with `head`; None for plain text and unknown formats."""
    if not head:
        return _EMPTY
    if not any(head):
        return _ZEROS
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], Known("an unknown RIFF file"))
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        return Known(f"a picture ({_PICTURE_BRANDS[head[8:12]]})")
    if head[4:8] in _BOXES:
        return _MP4
    if head[_TAR[0]:].startswith(_TAR[1]):
        return Known("a tar archive", _UNPACK)
    if _is_transport_stream(head):
        return _TRANSPORT
    return next((what for start, what in _STARTS.items() if head.startswith(start)), None) or _known_text(head)


def _is_transport_stream(head: bytes) -> bool:
    for first, step in ((0, 188), (4, 192)):  # the latter with a time before each packet
        marks = head[first::step]
        if len(marks) > 2 and set(marks) == {0x47}:
            return True
    return False


def _text(head: bytes) -> str | None:
    """Return the start of a text file in lower case; None if the bytes are no text."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1").lstrip().lower()
    control = any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text)
    return None if control else text


def _known_text(head: bytes) -> Known | None:
    text = _text(head)
    if text is None:
        return None
    if _HTML.match(text):
        return _PAGE
    found = next((what for start, what in _TEXTS.items() if text.startswith(start)), None)
    if found is None and text.startswith("<"):
        return next((what for tag, what in _TAGS.items() if tag in text), Known("an XML file"))
    return found
