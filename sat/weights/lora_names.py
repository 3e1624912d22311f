"""LoRA's tensors in a transformer, and the names that SwissArmyTransformer gives them.

A layer NAME with LoRA has NAME.original.weight and NAME.original.bias, and NAME.matrix_A.i (r, in) and
NAME.matrix_B.i (out, r) for each i of its parts: query, key and value, or attention's and MLP's modulations, or one.
"""
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from weights.diffusers_layout import TRANSFORMER_NAMES

T = TypeVar("T")

# The kinds of layers that LoRA applies to, by the names that `targets` of a lora_config has for them; {i}: the block.
KINDS = {
    "attention.query_key_value": "transformer.layers.{i}.attention.query_key_value",
    "attention.dense": "transformer.layers.{i}.attention.dense",
    "mlp.dense_h_to_4h": "transformer.layers.{i}.mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h": "transformer.layers.{i}.mlp.dense_4h_to_h",
    "modulation": "mixins.adaln_layer.adaLN_modulations.{i}.1",
}
ATTENTION = ("attention.query_key_value", "attention.dense")
# Matrices that are stacked in the weight of each kind: as many as diffusers has layers for it.
PARTS = {kind: len(TRANSFORMER_NAMES[template]) for kind, template in KINDS.items()}
MATRICES = ("matrix_A", "matrix_B")
MATRIX = re.compile(rf"(?P<layer>.+)\.(?P<matrix>{'|'.join(MATRICES)})\.(?P<part>\d+)")
LAYER = {kind: re.compile(re.escape(template).replace(r"\{i\}", r"(\d+)")) for kind, template in KINDS.items()}


@dataclass(frozen=True)
class Lora:
    """A LoRA, separate from its model, with the same layers and the same rank in each of its blocks.

    `matrices` are A and B by their names in a network; the update of a weight is (alpha / rank) B A. `base` has the
    tensors of the model it was trained for, on the meta device (names and shapes only); None if unknown. `described`
    says rank, alpha and strength as its file has them, and where alpha came from; `doubts` what does not fit together.
    """

    matrices: Mapping[str, Tensor]
    alpha: float
    base: Mapping[str, Tensor] | None = None
    described: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        return next(value.shape[0] for name, value in self.matrices.items() if ".matrix_A." in name)

    @property
    def layers(self) -> list[int]:
        """The blocks that it is on."""
        return sorted({block for _, block in map(place_of, self._names())})

    @property
    def kinds(self) -> list[str]:
        """The kinds of layers that it is on, in the order of KINDS."""
        present = {kind for kind, _ in map(place_of, self._names())}
        return [kind for kind in KINDS if kind in present]

    def _names(self) -> Iterator[str]:
        return (match["layer"] for match in map(MATRIX.fullmatch, self.matrices) if match)


def is_matrix(name: str) -> bool:
    return MATRIX.fullmatch(name) is not None


def layer_name(kind: str, block: int) -> str:
    """Return a layer's name in a network."""
    return KINDS[kind].format(i=block)


def place_of(layer: str) -> tuple[str, int]:
    """Return the kind of a layer and its block. Raises ValueError for a layer that cannot have LoRA."""
    for kind, template in LAYER.items():
        if match := template.fullmatch(layer):
            return kind, int(match[1])
    raise ValueError(f"{layer} is no layer for LoRA")


def matrix_names(layers: Iterable[int], kinds: Iterable[str] = ATTENTION) -> Iterator[str]:
    """Yield the names of all matrices of a LoRA on these blocks, in the order of a state dict."""
    kinds = list(kinds)
    for i in layers:
        for kind in kinds:
            for matrix in MATRICES:
                yield from (f"{layer_name(kind, i)}.{matrix}.{part}" for part in range(PARTS[kind]))


def without_lora(state: Mapping[str, T]) -> dict[str, T]:
    """Return a state dict without LoRA's matrices, with the names that a model without LoRA has."""
    return {name.replace(".original.", "."): value for name, value in state.items() if not is_matrix(name)}
