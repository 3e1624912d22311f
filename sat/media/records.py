"""Records and latents of finished videos: `metadata.json`, `latents.safetensors`.

A record is written last, and holds size and SHA-256 of the file it describes, so that a record and a file of different
runs are told apart.
"""
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from common.errors import DataError
from common.files import WholeFiles, whole_files
from common.text import read_text

logger = logging.getLogger(__name__)
VIDEO = "000000.mp4"
RECORD, LATENTS = "metadata.json", "latents.safetensors"
RECORD_VERSION = 2  # of the entries; records before numbers count as 1
LARGEST_RECORD = 1 << 25  # bytes
NOISE = "noise.safetensors"  # the result of inverting a clip
FPS, FPS_OF_NOISE = "fps", "fps_of_noise"  # the entry of a file of latents, and of one of noise
LIBRARIES = ("torch", "SwissArmyTransformer", "transformers", "deepspeed", "omegaconf", "safetensors", "av",
             "sageattention")
DEFAULT_FPS = 8  # of latents without a frame rate
MAX_FPS = 2**31 - 1  # that an mp4 can hold


def save_latents(path: Path, latents: Tensor, fps: int, files: WholeFiles | None = None, rate: str = FPS) -> None:
    """Save latents (T, C, h, w) as sampled, without padding, and the frame rate of their video under the name `rate`.

    For noise that name is FPS_OF_NOISE. There is one name alone, since the library writes several in any order.

    They appear at once, or with the others of `files`. Raises DataError if the system cannot write the file.
    """
    from safetensors.torch import save_file
    with nullcontext(files) if files is not None else whole_files() as written, written.writing(path) as partial:
        save_file({"latents": latents.float().cpu().contiguous()}, partial, metadata={rate: str(fps)})


def load_latents(path: Path) -> tuple[Tensor, int]:
    """Return the latents (T, C, h, w), with T odd, and the frame rate (default 8) of a file.

    Raises DataError if the file has no finite latents of such a shape, or a frame rate that is none.
    """
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as opened:
            latents, said = opened.get_tensor("latents"), opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path} has no readable latents ({' '.join(str(error).split())[:120]}); sample it again"
                        ) from error
    if latents.dim() != 4 or 0 in latents.shape or latents.shape[0] % 2 == 0:
        raise DataError(f"{path} holds latents of shape {tuple(latents.shape)}, not (odd frames, channels, height, "
                        "width); sample it again")
    if not latents.is_floating_point():
        raise DataError(f"{path} holds latents of type {latents.dtype}, not of floating point; sample it again")
    latents = latents.float()
    if not torch.isfinite(latents).all():
        raise DataError(f"{path} holds latents that are not finite; sample it again")
    return latents, _frame_rate(said.get(FPS, said.get(FPS_OF_NOISE, str(DEFAULT_FPS))), path)


def check_decodable(path: Path) -> None:
    """Raise DataError for a file of noise, which no decoder makes a video of."""
    from safetensors import safe_open
    with safe_open(path, framework="pt") as opened:
        if FPS_OF_NOISE in (opened.metadata() or {}):
            raise DataError(f"{path} holds the noise that a clip was inverted to, not a video's latents; give "
                            f"{LATENTS}, or sample from the clip")


def _frame_rate(noted: str, path: Path) -> int:
    try:
        rate = float(noted)
    except ValueError:
        rate = math.nan
    if not (1 <= rate <= MAX_FPS and rate == int(rate)):
        raise DataError(f"{path} notes a frame rate fps of {noted[:40]!r}, not a whole number from 1 to {MAX_FPS}; "
                        "sample it again")
    return int(rate)


def find_latents(source: str | None) -> list[tuple[Path, Path]]:
    """Return the files of saved latents in a file or below a folder, each with its folder relative to the source.

    Raises DataError if there are none.
    """
    if source is None or not Path(source).exists():
        raise DataError(f"args.input_file {source} does not exist; give a {LATENTS} file or a folder that holds some")
    root = Path(source)
    if root.is_file():
        return [(root, Path(root.stem if root.name != LATENTS else root.parent.name))]
    found = sorted(root.rglob(LATENTS))
    if not found:
        raise DataError(f"folder {source} contains no {LATENTS}; write them with --only-save-latents")
    return [(path, path.parent.relative_to(root)) for path in found]


def write_record(folder: Path, record: Mapping, *names: str, files: WholeFiles | None = None) -> None:
    """Write metadata.json, the last file of a finished video.

    Its entry `files` has size and SHA-256 of the folder's files `names`, which it describes. With `files` they and the
    record appear together.
    """
    with nullcontext(files) if files is not None else whole_files() as written:
        described = {name: _fingerprint(written.present(folder / name)) for name in names}
        text = json.dumps({**record, "files": described}, indent=2, ensure_ascii=False, default=str)
        with written.writing(folder / RECORD) as partial:
            partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_record(folder: Path) -> dict | None:
    """Return a folder's record as it stands, None if there is none; a damaged one counts as none, with a warning."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return parsed_record(path)
    except DataError as error:
        logger.warning("%s is damaged and not used (%s)", path, error)
        return None


def foreign_record(path: Path) -> dict:
    """Return a record that may come from a stranger. Raises DataError for anything else."""
    if not path.is_file():
        raise DataError(f"there is no record {path}; name a {RECORD}, or a folder that holds some")
    try:
        return parsed_record(path)
    except DataError as error:
        raise DataError(f"{path} is no record ({error}); name a {RECORD}") from error


def parsed_record(path: Path) -> dict:
    """Return the names and values of a record's JSON. Raises DataError, which says what is wrong, for anything else."""
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise DataError(f"it has {path.stat().st_size} bytes, more than a record has")
        record = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(" ".join(str(error).split())[:120]) from error
    if not isinstance(record, dict):
        raise DataError("it holds no names with values")
    return record


def verified_record(folder: Path) -> dict | None:
    """Return a folder's record if the files that it describes are there, unchanged; None otherwise.

    Their names are the keys of its entry `files`, of which there is at least one.
    """
    record = read_record(folder)
    files = None if record is None else record.get("files")
    if not isinstance(files, dict) or not files:
        return None
    return record if all(_unchanged(folder, name, noted) for name, noted in files.items()) else None


def record_describing(path: Path) -> dict | None:
    """Return the record beside a file if it describes that file as it is; None otherwise."""
    record = read_record(path.parent)
    files = None if record is None else record.get("files")
    return record if isinstance(files, dict) and _unchanged(path.parent, path.name, files.get(path.name)) else None


def _unchanged(folder: Path, name: str, noted: object) -> bool:
    path = folder / name
    if Path(name).name != name or not isinstance(noted, dict) or not path.is_file():
        return False
    return path.stat().st_size == noted.get("bytes") and _fingerprint(path) == noted


def _fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


@cache
def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that can change a video's values."""
    installed = {distribution.name.lower() for distribution in metadata.distributions() if distribution.name}
    return {name: metadata.version(name) for name in LIBRARIES if name.lower() in installed}
