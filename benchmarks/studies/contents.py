"""Digests of what files and folders hold."""
import hashlib
from functools import cache
from pathlib import Path


@cache
def content_of(path: Path) -> str:
    """Return a digest of a file, or of the names and contents of all files below a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            whole.update(str(file.relative_to(path)).encode())
            with open(file, "rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return f"sha256 {whole.hexdigest()}"
