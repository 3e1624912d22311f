"""Caches: tensors computed once and stored in folders of safetensors files, with a description of their origin.

`NAME.json` describes a part; `NAME-….safetensors` hold it, up to 256 items each. Every item is stored with its key, a
digest of what it was computed from, so it does not matter in which order items are, which of them were there before,
and which could not be read. A folder whose description differs is refused with a message that names the difference; one
that lacks items is completed.
"""
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import ranks
from common.console import progress
from common.errors import CheckpointError, DataError
from common.files import sole_use, whole_file
from common.ranks import any_of, wait_for_all
from parallel import groups
from weights.checkpoint import read_state_dict

ITEMS_PER_FILE = 256
DIGEST = 64  # hexadecimal digits of a digest, which messages leave out
KEYS = "keys"  # the tensor (n, 32) of the items' keys in a file


@dataclass(frozen=True)
class Part:
    """A kind of tensor in a cache folder.

    `encode` takes keys of items. It returns the keys of those that could be encoded, and their values (n, ...), or None
    in place of the values if no item could be encoded.
    """

    name: str
    values: str  # name of the tensor in the files
    description: dict  # everything but the item that determines the values
    encode: Callable[[Sequence[str]], tuple[list[str], Tensor | None]]


def completed(folder: Path, part: Part, keys: Sequence[str]) -> dict[str, Tensor]:
    """Return the items of a part by key, memory-mapped, after computing those of `keys` that are missing.

    Items that cannot be encoded stay missing. The ranks divide the work among themselves; another run that completes
    the folder at the same time is refused. Raises DataError if the folder's description differs, naming the difference.
    """
    _check_or_write_description(folder, part)
    stored = _stored(folder, part)
    if any_of(not stored.keys() >= set(keys)):
        with sole_use(folder):
            _clear_partial_files(folder)
            stored = _stored(folder, part)  # another run may have completed it
            wait_for_all()
            _complete(folder, part, [key for key in dict.fromkeys(keys) if key not in stored])
            wait_for_all()
        stored = _stored(folder, part)
    return stored


def _complete(folder: Path, part: Part, missing: Sequence[str]) -> None:
    shares = [missing[start:start + ITEMS_PER_FILE] for start in range(0, len(missing), ITEMS_PER_FILE)]
    for share in progress(groups.own_share(shares), f"{part.name} of {folder.name}", unit="file"):
        _write_file(folder, part, share)


def _clear_partial_files(folder: Path) -> None:
    """Remove what runs left that died while they wrote; no other run is writing, and this one has not begun."""
    if ranks.is_main_process():
        for left in folder.glob(".*.partial.safetensors"):
            left.unlink(missing_ok=True)
    wait_for_all()


def _stored(folder: Path, part: Part) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob(f"{part.name}-*.safetensors")):
        try:
            tensors = read_state_dict(file)
            keys, values = tensors[KEYS], tensors[part.values]
        except (CheckpointError, KeyError) as problem:
            raise DataError(f"{file} of the cache is damaged or of an earlier version; delete it, and what it held is "
                            "computed again") from problem
        found |= zip((bytes(key.tolist()).hex() for key in keys), values, strict=True)
    return found


def _check_or_write_description(folder: Path, part: Part) -> None:
    path = folder / f"{part.name}.json"
    if path.is_file():
        differing = _differences(_read_description(path), part.description)
        if differing:
            raise DataError(f"cache {folder} was made with another {', '.join(differing)}; delete the folder, or "
                            "set args.latent_cache to another one")
    wait_for_all()  # no rank writes the description before all have checked it
    if not path.is_file() and ranks.is_main_process():
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(part.description, indent=2) + "\n", encoding="utf-8")
    wait_for_all()


def _read_description(path: Path) -> Mapping:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, Mapping):
            raise ValueError("not a mapping")
    except ValueError as problem:
        raise DataError(f"cache description {path} is damaged ({problem}); delete the folder") from problem
    return found


def _differences(found: Mapping, wanted: Mapping) -> list[str]:
    return [_difference(key, found.get(key), wanted.get(key)) for key in {**wanted, **found}
            if found.get(key) != wanted.get(key)]


def _difference(key: str, found, wanted) -> str:
    values = [str(value) for value in (found, wanted)]
    return key if any(len(value) >= DIGEST for value in values) else f"{key} ({values[0]}, not {values[1]})"


def _write_file(folder: Path, part: Part, keys: Sequence[str]) -> None:
    from safetensors.torch import save_file

    kept, values = part.encode(keys)
    if values is None:
        return
    if not torch.isfinite(values).all():
        raise DataError(f"{part.name} for cache {folder} are not finite; check the encoder's weights, or compute in a "
                        "wider dtype")
    stored = torch.tensor([list(bytes.fromhex(key)) for key in kept], dtype=torch.uint8)
    path = folder / f"{part.name}-{hashlib.sha256(''.join(kept).encode()).hexdigest()[:16]}.safetensors"
    with whole_file(path) as unfinished:
        save_file({KEYS: stored, part.values: values.contiguous()}, unfinished)
