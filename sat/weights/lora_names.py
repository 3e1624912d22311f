"""LoRA's tensors in a transformer, and the names that SwissArmyTransformer gives them.

A layer NAME with LoRA has NAME.original.weight and NAME.original.bias, and NAME.matrix_A.i (r, in) and
NAME.matrix_B.i (out, r) for each i of its parts: query, key and value, or only one.
"""
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

# The layers of each block that LoRA applies to, and how many matrices are stacked in each one's weight.
PARTS = {"attention.query_key_value": 3, "attention.dense": 1}
MATRICES = ("matrix_A", "matrix_B")
MATRIX = re.compile(rf"transformer\.layers\.(\d+)\..+\.({'|'.join(MATRICES)})\.\d+")


@dataclass(frozen=True)
class Lora:
    """A LoRA, separate from its model.

    `matrices` are A and B by their names in a network; the update of a weight is (alpha / rank) B A. `base` has the
    tensors of the model it was trained for, on the meta device (names and shapes only); None if unknown.
    """

    matrices: Mapping[str, Tensor]
    alpha: float
    base: Mapping[str, Tensor] | None = None

    @property
    def rank(self) -> int:
        return next(value.shape[0] for name, value in self.matrices.items() if ".matrix_A." in name)

    @property
    def layers(self) -> list[int]:
        return sorted({int(match[1]) for match in map(MATRIX.fullmatch, self.matrices) if match})


def is_matrix(name: str) -> bool:
    return MATRIX.fullmatch(name) is not None


def matrix_names(layers: Iterable[int]) -> Iterator[str]:
    """Yield the names of all matrices of a LoRA on these layers, in the order of a state dict."""
    for i in layers:
        for layer, parts in PARTS.items():
            for matrix in MATRICES:
                yield from (f"transformer.layers.{i}.{layer}.{matrix}.{part}" for part in range(parts))


def without_lora(state: Mapping[str, T]) -> dict[str, T]:
    """Return a state dict without LoRA's matrices, with the names that a model without LoRA has."""
    return {name.replace(".original.", "."): value for name, value in state.items() if not is_matrix(name)}
