"""The identity of weights on disk: a digest that tells them from other weights, wherever they are kept."""
import hashlib
from collections.abc import Iterable
from pathlib import Path

from common.errors import CheckpointError
from weights.checkpoint import find_checkpoint

WHOLE = 1 << 26  # bytes; larger files are sampled
SAMPLES, SAMPLE = 256, 1 << 14  # samples, spread evenly over a file, and bytes of each
KINDS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".model")


def identity(*paths: str | Path) -> str:
    """Return a digest of weights: of files, of run folders' newest ones, of other folders' weights and settings.

    A folder with one file of weights counts as that file. Names do not count. A file of more than 64 MiB counts by its
    size and 256 samples, which training or merging changes; a change between all of them is not seen.
    """
    digests = sorted({_digest(file) for path in paths for file in _files(Path(path))})
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    try:
        return [find_checkpoint(path)]
    except CheckpointError:  # not a run's: a folder of diffusers, transformers or peft
        return [file for file in path.iterdir() if file.suffix in KINDS and file.is_file()]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        size = path.stat().st_size
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for i in range(SAMPLES):
            file.seek((size - SAMPLE) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
        return digest.hexdigest()
