"""Names under which processes write files and folders until they are whole, and what is left of those that died."""
import os
import re
import shutil
from pathlib import Path


def partial_name(path: Path) -> str:
    """Return the name under which this process writes a file until it is whole."""
    return f".{path.stem}.{os.getpid()}.partial{path.suffix}"


def left_by_dead(folder: Path, names: set[str] | None = None) -> list[Path]:
    """Return the partial files and folders in a folder that no living process of this machine owns.

    `names`: those of whole files that count; all if None.
    """
    return [path for path in folder.glob(".*.partial*") if (found := _PARTIAL.fullmatch(path.name))
            and (names is None or f"{found['stem']}{found['suffix']}" in names) and not _lives(int(found["process"]))]


def clear_dead(path: Path) -> None:
    """Remove what processes that died while they wrote `path` left of it."""
    for left in left_by_dead(path.parent, {path.name}):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


_PARTIAL = re.compile(r"\.(?P<stem>.+)\.(?P<process>\d+)\.partial(?P<suffix>(\.[^.]+)?)")


def _lives(process: int) -> bool:
    """Return True if another process has this number; this one has written nothing yet."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
