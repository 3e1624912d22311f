"""The code that runs: its commit, and a digest of its files, which tells it from other code without git too."""
import hashlib
import subprocess
from functools import cache

from common.files import REPOSITORY

FOLDERS = ("sat", "cogvideo")
SECONDS_FOR_GIT = 10


@cache
def commit() -> str | None:
    """Return the commit that is checked out; None where there is no git, or the code is no clone of its own."""
    top = git("rev-parse", "--show-toplevel")
    return (git("rev-parse", "HEAD") or None) if top and REPOSITORY.samefile(top) else None


@cache
def has_changes() -> bool:
    """Return True if tracked files differ from the commit."""
    return bool(git("status", "--porcelain", "--untracked-files=no"))


@cache
def source_digest() -> str:
    """Return a digest of the names and contents of all Python files that sampling may run."""
    digest = hashlib.sha256()
    files = [*REPOSITORY.glob("*.py"), *(file for folder in FOLDERS for file in (REPOSITORY / folder).rglob("*.py"))]
    for file in sorted(files):
        digest.update(f"{file.relative_to(REPOSITORY).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def git(*words: str) -> str:
    """Return what git prints about this code, nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True,
                              timeout=SECONDS_FOR_GIT)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
