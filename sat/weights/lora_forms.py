"""LoRAs of any layers, ranks and strengths brought to the form that a network loads, and sums of several.

In that form every block has the same layers and every matrix the same rank; what is missing is filled with zeros, and
where strengths differ, B includes them.
"""
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weights.lora_names import KINDS, MATRIX, PARTS, Lora, layer_name, place_of
from weights.lora_strength import Pair

Pairs = Mapping[tuple[str, int], Pair]  # by layer and part


def regular(pairs: Pairs) -> tuple[dict[str, Tensor], float]:
    """Return the matrices of a LoRA by their names in a network, and alpha."""
    alpha, pairs = _of_one_strength(pairs)
    rank = max(pair.rank for pair in pairs.values())
    like: dict[str, Pair] = {}
    blocks = set()
    for (layer, _), pair in pairs.items():
        kind, block = place_of(layer)
        like.setdefault(kind, pair)
        blocks.add(block)
    matrices: dict[str, Tensor] = {}
    for block in sorted(blocks):
        for kind in (kind for kind in KINDS if kind in like):
            layer = layer_name(kind, block)
            chosen = [pairs.get((layer, part)) or _zero(like[kind]) for part in range(PARTS[kind])]
            matrices |= {f"{layer}.matrix_A.{part}": _padded(pair.a, 0, rank) for part, pair in enumerate(chosen)}
            matrices |= {f"{layer}.matrix_B.{part}": _padded(pair.b, 1, rank) for part, pair in enumerate(chosen)}
    return matrices, alpha


def scaled_sum(loras: Sequence[Lora], scales: Sequence[float]) -> Lora:
    """Return one LoRA whose update is the sum of several, each times its scale; its rank is the sum of theirs."""
    if len(loras) == 1 and scales[0] == 0:  # alpha 0 would say nothing of what the matrices are
        zero = {name: torch.zeros_like(value) if ".matrix_B." in name else value
                for name, value in loras[0].matrices.items()}
        return replace(loras[0], matrices=zero)
    if len(loras) == 1:
        return replace(loras[0], alpha=loras[0].alpha * scales[0])
    stacked: dict[tuple[str, int], list[Pair]] = {}
    for lora, scale in zip(loras, scales, strict=True):
        for place, pair in _pairs_of(lora).items():
            stacked.setdefault(place, []).append(replace(pair, alpha=pair.alpha * scale))
    matrices, alpha = regular({place: _joined(pairs) for place, pairs in stacked.items()})
    return Lora(matrices, alpha, loras[0].base, "; ".join(lora.described for lora in loras))


def _of_one_strength(pairs: Pairs) -> tuple[float, Pairs]:
    """Return alpha for all pairs, once their ranks are equal, and the pairs; B includes what alpha cannot express."""
    ranks, alphas = {pair.rank for pair in pairs.values()}, {pair.alpha for pair in pairs.values()}
    strengths = {pair.strength for pair in pairs.values()}
    if len(ranks) == len(alphas) == 1:
        return alphas.pop(), pairs
    if len(strengths) == 1:
        return strengths.pop() * max(ranks), pairs
    return float(max(ranks)), {place: _joined([pair]) for place, pair in pairs.items()}


def _joined(pairs: Sequence[Pair]) -> Pair:
    """Return the sum of LoRAs on one layer as a pair of strength 1."""
    b = torch.cat([pair.b.float() * pair.strength for pair in pairs], dim=1)
    return Pair(torch.cat([pair.a for pair in pairs]), b, float(b.shape[1]), pairs[0].said)


def _pairs_of(lora: Lora) -> dict[tuple[str, int], Pair]:
    pairs = {}
    for match in filter(None, map(MATRIX.fullmatch, lora.matrices)):
        layer, part = match["layer"], int(match["part"])
        a, b = (lora.matrices[f"{layer}.{matrix}.{part}"] for matrix in ("matrix_A", "matrix_B"))
        pairs[layer, part] = Pair(a, b, lora.alpha, lora.described)
    return pairs


def _zero(like: Pair) -> Pair:
    return replace(like, a=torch.zeros_like(like.a), b=torch.zeros_like(like.b))


def _padded(matrix: Tensor, axis: int, rank: int) -> Tensor:
    """Return a matrix with zeros up to `rank` rows (axis 0) or columns (axis 1)."""
    shape = list(matrix.shape)
    shape[axis] = rank - shape[axis]
    return matrix if shape[axis] == 0 else torch.cat([matrix, matrix.new_zeros(shape)], dim=axis)
