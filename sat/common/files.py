"""Atomic writing of files, and paths relative to the repository's root."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Context manager for writing `path` atomically: yields a temporary path beside it, with the same suffix.

    On success the temporary file is flushed to disk and renamed to `path`. If the block raises or the process dies,
    `path` keeps its previous content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that renames inside it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def from_repository(path: str | Path) -> Path:
    """Return the absolute path for one that is absolute, starts with `~`, or is relative to the repository's root."""
    return REPOSITORY / Path(path).expanduser()


def check_writable(folder: str | Path) -> Path:
    """Create an output folder and check that it can be written. Raises DataError if not."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise DataError(f"output folder {folder} cannot be written ({error.strerror}); choose another with --output-dir"
                        ) from error
