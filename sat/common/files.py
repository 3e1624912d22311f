"""Atomic writing of files, sole use of folders, and paths relative to the repository's root."""
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import filelock
from safetensors import SafetensorError

from common.errors import DataError
from common.partial_files import clear_dead, partial_name
from common.ranks import is_main_process
from common.typed import shown

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = ".in_use"
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes


class WholeFiles:
    """Files that are written under temporary names first, and then appear together."""

    def __init__(self):
        self._temporary: dict[Path, Path] = {}
        self._leaving: list[Path] = []

    @contextmanager
    def writing(self, path: str | Path) -> Iterator[Path]:
        """Context manager for writing one of the files: yields a temporary path beside it, with the same suffix.

        Raises DataError, which names the file, if the system cannot write it, as on a full disk.
        """
        path = Path(path)
        temporary = path.with_name(partial_name(path))
        with _named(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary[path] = temporary
            yield temporary

    def present(self, path: Path) -> Path:
        """Return where the content of a file is until the files appear."""
        return self._temporary.get(path, path)

    def leave_others(self, paths: Iterable[Path]) -> None:
        """Note that those of the paths that are not written are of an earlier run, and go when the files appear."""
        self._leaving += [path for path in paths if path not in self._temporary]

    def appear(self) -> None:
        """Flush the files to disk and rename them, in the order in which they were begun.

        Earlier versions of all but the first go before, so that none stands beside a new file.
        """
        for path, temporary in self._temporary.items():
            with _named(path, temporary), open(temporary, "rb+") as written:
                os.fsync(written.fileno())
        for path in reversed(self._leaving + list(self._temporary)[1:]):
            with _named(path):
                path.unlink(missing_ok=True)
        for path, temporary in self._temporary.items():
            with _named(path, temporary):
                os.replace(temporary, path)
        for folder in {path.parent for path in self._temporary}:
            with _named(folder):
                sync_folder(folder)

    def clear(self) -> None:
        """Remove what is left under temporary names."""
        for temporary in self._temporary.values():
            temporary.unlink(missing_ok=True)


def cache_folder() -> Path | None:
    """Return this project's folder in the user's cache; None without a home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cogvideo"
    except RuntimeError:  # as in a container whose user has none
        return None


@contextmanager
def whole_files() -> Iterator[WholeFiles]:
    """Context manager for files that appear together at its end; none does if the block raises or the process dies."""
    files = WholeFiles()
    try:
        yield files
        files.appear()
    finally:
        files.clear()


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Context manager for writing `path` atomically: yields a temporary path beside it, with the same suffix.

    On success the temporary file is flushed to disk and renamed to `path`. If the block raises or the process dies,
    `path` keeps its previous content. Raises DataError if the system cannot write the file, as on a full disk.
    """
    with whole_files() as files, files.writing(path) as temporary:
        yield temporary


@contextmanager
def _named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Context manager that says which file could not be written; errors of other files, such as inputs, pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str):
            failed = Path(error.filename)
            if failed not in (path, temporary, *path.parents) and temporary not in failed.parents:
                raise
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    except SafetensorError as error:  # its writer's, of a full disk too
        raise DataError(f"{path} cannot be written ({' '.join(str(error).split())})") from error


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Context manager for writing a new folder as a whole: yields a temporary folder beside it, which becomes `path`.

    If the block raises, nothing is left; what a process left that was killed goes when the folder is written again.
    Raises DataError if `path` holds anything or is a file, and if the system cannot write it.
    """
    path = Path(path).absolute()
    check_empty(path)
    clear_dead(path)
    temporary = path.with_name(partial_name(path))
    try:
        with _named(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_empty(folder: Path) -> None:
    """Raise DataError unless a folder to be written does not exist yet, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already and is not empty; nothing is written over it: choose another folder, "
                        "or move it away")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that renames inside it survive a power cut; nothing to do on Windows."""
    if os.name == "nt":  # folders cannot be opened there, and its file system logs renames itself
        return
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
