"""Formats of weight files, recognised by their first bytes, before anything in them is parsed."""
import re
import struct
import zipfile
from pathlib import Path

from common.errors import CheckpointError
from common.listing import listed

SAFETENSORS, TORCH, OLD_TORCH = "safetensors", "torch", "old torch"
HEAD = 512  # bytes that are looked at
OLD_TORCH_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # after the pickle's protocol: torch.save's number before 1.6
AGAIN = "copy or download it again"
OTHER = "give weights as safetensors or torch.save writes them"
# What else people have under the name of weights: the first bytes, what it is, and what helps.
STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for",
     "run `git lfs pull` in its repository"),
    (b"GGUF", "a GGUF file", "this format is not read; take the weights as bf16, fp16 or fp8 safetensors"),
    (b"\x89HDF", "an HDF5 file", OTHER),
    (b"%PDF", "a PDF document", OTHER),
    (b"\x1f\x8b", "a gzip archive", "unpack it"), (b"BZh", "a bzip2 archive", "unpack it"),
    (b"\xfd7zXZ", "an xz archive", "unpack it"), (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"), (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it"),
    (b"\x93NUMPY", "a NumPy array", OTHER),
    (b"\x89PNG", "a picture", OTHER), (b"\xff\xd8\xff", "a picture", OTHER), (b"GIF8", "a picture", OTHER),
    (b"BM", "a picture", OTHER), (b"II*\0", "a picture", OTHER), (b"MM\0*", "a picture", OTHER),
    (b"\x1aE\xdf\xa3", "a video", OTHER),
)
CONTAINERS = ((b"RIFF", 8, b"WEBP", "a picture"), (b"RIFF", 8, b"AVI ", "a video"), (b"", 4, b"ftyp", "a video"),
              (b"", 257, b"ustar", "a tar archive"))
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head|body|error|!--)", re.IGNORECASE)
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")


def format_of(file: Path) -> str:
    """Return SAFETENSORS, TORCH or OLD_TORCH for a file of weights, whatever its name.

    Raises CheckpointError, which says what the file is and what helps, for any other, for a truncated one, and for one
    that the system cannot read.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"checkpoint {file} cannot be read ({error.strerror}); copy or fetch it again") from error
    if not head:
        raise CheckpointError(f"checkpoint {file} is empty; {AGAIN}")
    if head[8:9] == b"{":
        return _safetensors(file, head, size)
    if head[:2] == b"PK":
        return _zip(file, size)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return _pickle(file, head)
    what = _known_stranger(head) or _text_or_noise(head)
    raise CheckpointError(f"checkpoint {file} is {what}")


def stranger(file: Path) -> str | None:
    """Return what a file is and what helps, if it is empty or a known format that no weights or vocabularies have."""
    with open(file, "rb") as stream:
        head = stream.read(HEAD)
    return _known_stranger(head) if head else f"empty; {AGAIN}"


def _safetensors(file: Path, head: bytes, size: int) -> str:
    header = struct.unpack("<Q", head[:8])[0]
    if header > size - 8:
        raise CheckpointError(f"checkpoint {file} is truncated ({size} bytes do not hold its header) or no safetensors "
                              f"file; {AGAIN}")
    return SAFETENSORS


def _zip(file: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"checkpoint {file} is truncated or damaged ({size} bytes); {AGAIN}") from error
    inside = {name.partition("/")[2] for name in names}
    if "data.pkl" not in inside:
        raise CheckpointError(f"checkpoint {file} is a zip archive that holds no weights of torch.save "
                              f"({listed(names) or 'nothing'}); unpack it, or {OTHER}")
    if "constants.pkl" in inside:
        raise CheckpointError(f"checkpoint {file} is a TorchScript program; {OTHER}")
    return TORCH


def _pickle(file: Path, head: bytes) -> str:
    if head[2:].startswith(OLD_TORCH_START):
        return OLD_TORCH
    raise CheckpointError(f"checkpoint {file} is refused: it is a Python pickle that torch.save did not write, which "
                          f"can hold code; none of it was executed; {OTHER}")


def _known_stranger(head: bytes) -> str | None:
    """Return what a file of a known format is, and what helps; None for other formats."""
    for start, what, remedy in STRANGERS:
        if head.startswith(start):
            return f"{what}; {remedy}"
    for start, offset, mark, what in CONTAINERS:
        if head.startswith(start) and head[offset:].startswith(mark):
            return f"{what}; {'unpack it' if 'archive' in what else OTHER}"
    if HTML.match(head):
        return ("a web page, most likely of an error or a login; open its address in a browser, then download it "
                "again")
    if not head.strip(b"\0"):
        return f"filled with zeros, as a download that never finished; {AGAIN}"
    return None


def _text_or_noise(head: bytes) -> str:
    if TEXT.fullmatch(head):
        start = " ".join(head[:60].decode("utf-8", "replace").split())
        return f"text ({start!r}), not weights; {AGAIN}"
    return f"damaged or no file of weights (its first bytes are of no known format); {AGAIN}"
