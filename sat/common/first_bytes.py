"""Names of files by their first bytes, for messages on files that are not what their name says."""
import re

HEAD = 4096  # bytes that suffice

_STARTS = {
    b"\x89PNG": "a picture (PNG)", b"\xff\xd8\xff": "a picture (JPEG)", b"GIF8": "a picture (GIF)",
    b"BM": "a picture (BMP)", b"II*\x00": "a picture (TIFF)", b"MM\x00*": "a picture (TIFF)",
    b"II+\x00": "a picture (BigTIFF)", b"MM\x00+": "a picture (BigTIFF)", b"8BPS": "a picture (Photoshop)",
    b"\x76\x2f\x31\x01": "a picture (OpenEXR)", b"#?RADIANCE": "a picture (Radiance HDR)",
    b"\xff\x0a": "a picture (JPEG XL)", b"\x00\x00\x00\x0cJXL ": "a picture (JPEG XL)",
    b"\x00\x00\x00\x0cjP  ": "a picture (JPEG 2000)", b"\x00\x00\x01\x00": "an icon (ICO)",
    b"%!PS": "a PostScript program", b"\xc5\xd0\xd3\xc6": "a PostScript program", b"%PDF": "a PDF document",
    b"\x1aE\xdf\xa3": "a video (Matroska or WebM)", b"FLV\x01": "a video (FLV)", b"OggS": "a video or sound (Ogg)",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "a video (WMV)", b"\x00\x00\x01\xba": "a video (MPEG)",
    b"\x00\x00\x01\xb3": "a video (MPEG)", b"G\x40": "a video (MPEG-TS)",
    b"ID3": "sound alone", b"fLaC": "sound alone", b"\xff\xfb": "sound alone", b"\xff\xf3": "sound alone",
    b"PK": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive",
    b"\xfd7zXZ": "an xz archive", b"\x28\xb5\x2f\xfd": "a zstd archive", b"BZh": "a bzip2 archive",
    b"GGUF": "a GGUF file", b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a NumPy array",
    b"\x00\x05\x16\x07": "what macOS notes about another file",
}
_RIFF = {b"WEBP": "a picture (WebP)", b"AVI ": "a video (AVI)", b"WAVE": "sound alone"}
_PICTURE_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC",
                   b"mif1": "HEIC", b"msf1": "HEIC"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx")
_HTML = re.compile(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.DOTALL)
_TEXTS = {"version https://git-lfs": "a Git LFS pointer (fetch the file itself with git lfs pull)",
          "#extm3u": "a playlist", "ffconcat": "a concat script"}


def named(head: bytes) -> str:
    """Return what a file is that starts with `head`, with its article: "a picture (PNG)", "an HTML page"."""
    if not head:
        return "an empty file"
    if not any(head):
        return "zero bytes alone"
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "an unknown RIFF file")
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        return f"a picture ({_PICTURE_BRANDS[head[8:12]]})"
    if head[4:8] in _BOXES:
        return "a video (MP4 or QuickTime)"
    known = next((name for start, name in _STARTS.items() if head.startswith(start)), None)
    return known or _named_text(head) or "data of an unknown format"


def _named_text(head: bytes) -> str | None:
    """Name a text file; None if the bytes are no text."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1").lstrip().lower()
    if any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    if _HTML.match(text):
        return "an HTML page, as failed downloads leave"
    if text.startswith("<"):
        return "a drawing (SVG)" if "<svg" in text else "an XML file"
    return next((name for start, name in _TEXTS.items() if text.startswith(start)), "a text file")
