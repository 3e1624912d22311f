"""Verification of the checksums that torch.save stores: once for each file, and remembered.

Mapping a file into memory skips its checksums, so that a flipped bit would load. Reading 10 GB for them takes seconds,
and files seldom change: what was found whole is kept in a small file of the user's cache folder, by path, size, time of
change and inode. Where that folder cannot be written, files are verified at every load.
"""
import json
import logging
import struct
import zipfile
import zlib
from pathlib import Path

from common.errors import CheckpointError, DataError
from common.files import cache_folder, whole_file

logger = logging.getLogger(__name__)

REMEMBERED = 1000  # files
CHUNK = 1 << 22  # bytes
LONG = 10**9  # bytes; files larger than this are announced


def check_sums(file: Path) -> None:
    """Raise CheckpointError if the contents of a zip that torch.save wrote differ from their checksums."""
    stat = file.stat()
    name, identity = str(file.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    known = _known()
    if known.get(name) == identity:
        return
    if stat.st_size > LONG:
        logger.info("verifying the checksums of %s, once", file)
    damaged = _damaged(file)
    if damaged is not None:
        raise CheckpointError(f"checkpoint {file} is damaged (the checksum of {damaged} is wrong); copy or download it "
                              "again")
    _remember({**{key: value for key, value in known.items() if key != name}, name: identity})


def _damaged(file: Path) -> str | None:
    """Return the name of the first entry whose contents differ from its checksum; None if all are as they were."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if not any(entry.CRC for entry in entries):  # torch.save can be told to leave them out
            return None
        for entry in entries:
            try:
                with archive.open(entry) as stream:
                    while stream.read(CHUNK):
                        pass
            except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error):
                return entry.filename
    return None


def cache_file() -> Path | None:
    """Return the file that remembers which checkpoints were verified; None without a cache folder."""
    folder = cache_folder()
    return None if folder is None else folder / "verified.json"


def _known() -> dict[str, list[int]]:
    """Return the files that were verified; none if they are not remembered."""
    try:
        file = cache_file()
        known = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, list[int]]) -> None:
    latest, path = dict(list(known.items())[-REMEMBERED:]), cache_file()
    if path is None:
        return
    try:
        with whole_file(path) as file:
            file.write_text(json.dumps(latest), encoding="utf-8")
    except (DataError, OSError):
        logger.debug("verified checkpoints are not remembered: %s cannot be written", path)
