"""Atomic writing of files, sole use of folders, and paths relative to the repository's root."""
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import filelock

from common.errors import DataError
from common.ranks import is_main_process
from common.typed import shown

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = ".in_use"
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Context manager for writing `path` atomically: yields a temporary path beside it, with the same suffix.

    On success the temporary file is flushed to disk and renamed to `path`. If the block raises or the process dies,
    `path` keeps its previous content. Raises DataError if the system cannot write the file, as on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(partial_name(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Context manager for writing a new folder as a whole: yields a temporary folder beside it, which becomes `path`.

    If the block raises, nothing is left. Raises DataError if `path` holds anything or is a file, and if the system
    cannot write it.
    """
    path = Path(path)
    check_empty(path)
    temporary = path.with_name(partial_name(path))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raise DataError unless a folder to be written does not exist yet, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already and is not empty; nothing is written over it: choose another folder, "
                        "or move it away")


def partial_name(path: Path) -> str:
    """Return the name under which this process writes a file until it is whole."""
    return f".{path.stem}.{os.getpid()}.partial{path.suffix}"


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that renames inside it survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """Context manager that keeps other runs out of a folder; of a run's processes, the main one alone holds it.

    The system frees the folder when the process ends, however it ends. Raises DataError if another process holds it.
    """
    with _held(Path(folder)) if is_main_process() else nullcontext():
        yield


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise DataError(f"folder {folder} is in use by another run; wait for it to end, or choose another folder"
                        ) from error
    try:
        yield
    finally:
        lock.release()


def expanded_path(path: str | Path, key: str) -> Path:
    """Return a path in which a leading `~` is replaced. Raises DataError, naming `key`, for what cannot be a path."""
    text, reason = str(path), ""
    encoded = text.encode(errors="surrogatepass")
    if not text.strip():
        reason = "empty"
    elif "\0" in text or text.encode(errors="ignore") != encoded:
        reason = "no text in UTF-8"
    elif len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        reason = "too long for a path"
    if not reason:
        try:
            return Path(path).expanduser()
        except RuntimeError:
            reason = "the home folder of a user that this machine does not have"
    raise DataError(f"{key} is {shown(text)}, which is {reason}; give the path of a file or folder")


def from_repository(path: str | Path) -> Path:
    """Return the absolute path for one that is absolute, starts with `~`, or is relative to the repository's root."""
    return REPOSITORY / Path(path).expanduser()


def check_writable(folder: str | Path, key: str) -> Path:
    """Create an output folder and check that it can be written. Raises DataError, naming the setting `key`, if not."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise DataError(f"output folder {folder} cannot be written ({error.strerror}); choose another with {key}"
                        ) from error
