"""LoRA's tensors in a transformer, by the names that SwissArmyTransformer gives them.

A layer NAME with LoRA has NAME.original.weight, NAME.original.bias, and for each of its parts i (query, key and value,
or one) NAME.matrix_A.i (r, in) and NAME.matrix_B.i (out, r).
"""
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

# The layers of each block that LoRA is for, and how many matrices lie stacked in the weight of each.
PARTS = {"attention.query_key_value": 3, "attention.dense": 1}
MATRICES = ("matrix_A", "matrix_B")
MATRIX = re.compile(rf"transformer\.layers\.(\d+)\..+\.({'|'.join(MATRICES)})\.\d+")


@dataclass(frozen=True)
class Lora:
    """A LoRA apart from the model it belongs to.

    matrices: by name, as in a network. alpha: the update is alpha / rank · B A. base: names and shapes of the tensors
    of the model it was trained for, as tensors on the meta device; None where that is not known.
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
    """The names of all matrices of a LoRA on these layers, in the order of a state dict."""
    for i in layers:
        for layer, parts in PARTS.items():
            for matrix in MATRICES:
                yield from (f"transformer.layers.{i}.{layer}.{matrix}.{part}" for part in range(parts))


def without_lora(state: Mapping[str, T]) -> dict[str, T]:
    """The model's own tensors, by the names that they have in a model without LoRA."""
    return {name.replace(".original.", "."): value for name, value in state.items() if not is_matrix(name)}
