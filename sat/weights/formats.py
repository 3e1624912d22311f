"""Formats of weight files, recognised by their first bytes, before anything in them is parsed."""
import re
import struct
import zipfile
from pathlib import Path

from common.errors import CheckpointError
from common.first_bytes import HEAD, known
from common.listing import listed

SAFETENSORS, TORCH, OLD_TORCH = "safetensors", "torch", "old torch"
OLD_TORCH_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # after the pickle's protocol: torch.save's number before 1.6
AGAIN = "copy or download it again"
OTHER = "give weights as safetensors or torch.save writes them"
GGUF = "this format is not read; take the weights as bf16, fp16 or fp8 safetensors"
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
    return _known_stranger(head)


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
    what = known(head)
    if what is None:
        return None
    return f"{what.name}; {what.remedy or (GGUF if 'GGUF' in what.name else OTHER)}"


def _text_or_noise(head: bytes) -> str:
    if TEXT.fullmatch(head):
        start = " ".join(head[:60].decode("utf-8", "replace").split())
        return f"text ({start!r}), not weights; {AGAIN}"
    return f"damaged or no file of weights (its first bytes are of no known format); {AGAIN}"
