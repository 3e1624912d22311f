"""Caches: tensors computed once and stored in folders of safetensors files, with a description of their origin.

`NAME.json` describes a part; `NAME-NNNNN.safetensors` hold it, up to 256 items each. A folder whose description differs
is refused with a message that names the difference; an interrupted one is completed.
"""
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from common import ranks
from common.errors import DataError
from common.files import whole_file
from common.ranks import wait_for_all
from parallel import groups
from weights.checkpoint import read_state_dict

ITEMS_PER_FILE = 256
DIGEST = 64  # hexadecimal digits of a digest, which messages leave out


class Rows:
    """Rows of one shape in several memory-mapped files; only the rows that are taken are read."""

    def __init__(self, parts: Sequence[Tensor]):
        self.parts = list(parts)
        self._ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> Tensor:
        part = bisect_right(self._ends, number)
        return self.parts[part][number - self._ends[part]]

    def take(self, numbers: Tensor) -> Tensor:
        """Return the rows (n, ...) with these numbers (n,)."""
        return torch.stack([self.row(number) for number in numbers.tolist()])


@dataclass(frozen=True)
class Part:
    """A kind of tensor in a cache folder.

    `encode` takes consecutive item numbers below `items`. It returns the numbers that could be encoded and their values
    (n, ...), or None in place of the values if no item could be encoded.
    """

    name: str
    values: str  # name of the tensor in the files, which also hold the item numbers as `index`
    description: dict  # everything that determines the values
    items: int
    encode: Callable[[Sequence[int]], tuple[list[int], Tensor | None]]


def completed(folder: Path, part: Part) -> tuple[Rows, list[int]]:
    """Return all rows of a part and the item number of each row, after writing missing files.

    The ranks divide the missing files among themselves. Raises DataError if the folder's description differs, naming
    the difference, and if no item could be read.
    """
    _check_or_write_description(folder, part)
    files = [folder / f"{part.name}-{i:05d}.safetensors" for i in range(-(-part.items // ITEMS_PER_FILE))]
    missing = [i for i in groups.own_share(range(len(files))) if not files[i].is_file()]
    quiet = groups.data_rank_and_size()[0] > 0 or not missing
    for i in tqdm(missing, f"{part.name} of {folder.name}", unit="file", disable=quiet):
        _write_file(files[i], part, range(i * ITEMS_PER_FILE, min((i + 1) * ITEMS_PER_FILE, part.items)))
    wait_for_all()
    read = [tensors for tensors in map(read_state_dict, files) if part.values in tensors]
    if not read:
        raise DataError(f"cache {folder} is empty because no clip could be read; replace the clips")
    return Rows([tensors[part.values] for tensors in read]), torch.cat([tensors["index"] for tensors in read]).tolist()


def _check_or_write_description(folder: Path, part: Part) -> None:
    path = folder / f"{part.name}.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise DataError(f"cache description {path} is damaged ({problem}); delete the folder") from problem
        wanted = part.description
        differing = [_difference(key, found.get(key), wanted.get(key)) for key in {**wanted, **found}
                     if found.get(key) != wanted.get(key)]
        if differing:
            raise DataError(f"cache {folder} was made with another {', '.join(differing)}; delete the folder, or "
                            "set args.latent_cache to another one")
    wait_for_all()  # no rank writes the description before all have checked it
    if not path.is_file() and ranks.is_main_process():
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(part.description, indent=2) + "\n", encoding="utf-8")


def _difference(key: str, found, wanted) -> str:
    values = [str(value) for value in (found, wanted)]
    return key if any(len(value) >= DIGEST for value in values) else f"{key} ({values[0]}, not {values[1]})"


def _write_file(path: Path, part: Part, numbers: Sequence[int]) -> None:
    from safetensors.torch import save_file

    kept, values = part.encode(numbers)
    tensors = {"index": torch.tensor(kept, dtype=torch.int64)}
    if values is not None:
        if not torch.isfinite(values).all():
            raise DataError(f"{part.name} for cache {path.parent} are not finite; check the encoder's weights, or "
                            "compute in a wider dtype")
        tensors[part.values] = values.contiguous()
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished)
