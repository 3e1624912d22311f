"""The pairs of matrices A and B of a LoRA's file, in any spelling, checked one by one."""
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.errors import CheckpointError
from common.listing import listed
from common.tensors import dtype_name
from common.typed import shown
from weights.links import SPLITS
from weights.lora_files import Content, meta_tensors
from weights.lora_forms import regular
from weights.lora_keys import Entry, entries, has_prefix
from weights.lora_names import ATTENTION, PARTS, Lora, is_matrix, place_of, without_lora
from weights.lora_strength import RELEASED_ALPHA, Alphas, Pair, check_config, described, doubts
from weights.sources import transformer_weights

ROWS = {1: 1, 2: 4, 3: 3}  # what the rows of a layer of so many parts must be a multiple of
Place = tuple[str, int | None]  # a layer here, and the part of its stacked weight; None: all of it


def lora_of_content(content: Content, given: float | None = None) -> Lora:
    """Return the LoRA of a file.

    `given`: alpha in place of the file's.

    Raises CheckpointError for a file without a LoRA, with one that is not plain, or whose matrices cannot be used.
    """
    places, others = entries(content.values, content.file)
    own = any(map(is_matrix, places))
    if not places:
        raise CheckpointError(f"{content.file} holds no LoRA; if these are the weights of a model, give them as "
                              "args.load")
    if others and not own:
        raise CheckpointError(f"LoRA {content.file} holds {len(others)} tensors beside the LoRA ({listed(others)}), "
                              "which would be lost; give a file of the LoRA alone")
    check_config(content)
    theirs = own or _is_released(content, places)
    alphas = Alphas(content, given, RELEASED_ALPHA if theirs else None)
    pairs = _pairs(_grouped(content, places), alphas, content)
    matrices, alpha = regular(_by_part(pairs, content))
    base = _base(content, with_model=bool(others))
    return Lora(matrices, alpha, base, described(pairs.values()), tuple(doubts(content, pairs)))


def _base(content: Content, with_model: bool) -> dict[str, Tensor] | None:
    """Return the tensors of the model that a LoRA was trained for, on the meta device; None if they are unknown."""
    base = without_lora(transformer_weights(content.file).shapes) if with_model else {}
    return base | meta_tensors(content.base or {}) or None


def _is_released(content: Content, places: Mapping[str, Entry]) -> bool:
    """Return True for what the release's exporter writes: the attention's layers, without prefix and without alpha."""
    return not any(has_prefix(name) or "alpha" in name or ".lora_A.weight" not in name and ".lora_B.weight" not in name
                   for name in places) and all(place_of(entry.layer)[0] in ATTENTION for entry in places.values())


def _grouped(content: Content, places: Mapping[str, Entry]) -> dict[Place, dict[str, tuple[str, Any]]]:
    """Return A, B and alpha of each layer or part, each with its name in the file."""
    groups: dict[Place, dict[str, tuple[str, Any]]] = {}
    for name, entry in places.items():
        group = groups.setdefault((entry.layer, entry.part), {})
        if entry.matrix in group:
            raise CheckpointError(f"LoRA {content.file} holds the same matrix twice: {group[entry.matrix][0]} and "
                                  f"{name}; save it once")
        group[entry.matrix] = name, content.values[name]
    whole = {layer for layer, part in groups if part is None}
    if twice := [layer for layer, part in groups if part is not None and layer in whole]:
        raise CheckpointError(f"LoRA {content.file} is on {listed(sorted(set(twice)))} both as a whole and in parts; "
                              "save it once")
    return groups


def _pairs(groups: Mapping[Place, Mapping[str, tuple[str, Any]]], alphas: Alphas, content: Content
           ) -> dict[Place, Pair]:
    halves = [next(iter(group.values()))[0] for group in groups.values() if not {"A", "B"} <= group.keys()]
    if halves:
        raise CheckpointError(f"LoRA {content.file} has only one of the matrices A and B of {len(halves)} layer(s): "
                              f"{listed(halves)}; copy the file again")
    pairs = {}
    for (layer, part), group in groups.items():
        a, b = (_matrix(*group[letter], content) for letter in "AB")
        if a.shape[0] != b.shape[1] or not a.shape[0]:
            raise CheckpointError(f"LoRA {content.file}: {group['A'][0]} has rank {a.shape[0]}, {group['B'][0]} has "
                                  f"rank {b.shape[1]}; they must be equal; copy the file again")
        stored = _alpha(*group["alpha"], content) if "alpha" in group else None
        alpha, said = alphas.of(layer, part, a.shape[0], stored)
        pairs[layer, part] = Pair(a, b, alpha, said)
    return pairs


def _matrix(name: str, value: Any, content: Content) -> Tensor:
    """Return A or B as a matrix of finite numbers; 1 x 1 convolutions are matrices too."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_nested or value.is_meta)
    if not plain or not value.is_floating_point():
        kind = dtype_name(value.dtype) if plain else type(value).__name__
        raise CheckpointError(f"LoRA {content.file}: {name} is of type {kind}; matrices of fractions are needed")
    if value.dim() < 2 or set(value.shape[2:]) - {1}:
        raise CheckpointError(f"LoRA {content.file}: {name} has the shape {tuple(value.shape)}; a matrix is needed")
    matrix = value.flatten(1)
    if matrix.dtype.itemsize == 1:  # 8 bits cannot be computed with
        matrix = matrix.float()
    if matrix.numel() and not torch.isfinite(torch.stack(torch.aminmax(matrix))).all():
        raise CheckpointError(f"LoRA {content.file}: {name} holds numbers that are not finite; its training failed, or "
                              "the file is damaged: give an earlier checkpoint")
    return matrix


def _alpha(name: str, value: Any, content: Content) -> float:
    try:
        number = value.item() if isinstance(value, Tensor) else value
        alpha = float(number) if isinstance(number, int | float) and not isinstance(number, bool) else 0.0
    except (RuntimeError, OverflowError):  # not one number, or too large a one
        alpha = 0.0
    if alpha == 0 or not math.isfinite(alpha):
        raise CheckpointError(f"LoRA {content.file}: {name} is {' '.join(shown(value).split())}; it must be one "
                              "finite number other than 0; state alpha with args.lora_alpha")
    return alpha


def _by_part(pairs: Mapping[Place, Pair], content: Content) -> dict[tuple[str, int], Pair]:
    """Return a pair for each part of each layer. A pair for a whole layer becomes one for each part, with the same A.
    """
    parted: dict[tuple[str, int], Pair] = {}
    for (layer, part), pair in pairs.items():
        count = PARTS[place_of(layer)[0]]
        if part is not None:
            if part >= count:
                raise CheckpointError(f"LoRA {content.file} has a matrix {part} of {layer}, which has {count}; copy "
                                      "the file again")
            parted[layer, part] = pair
        elif pair.b.shape[0] % ROWS[count]:
            raise CheckpointError(f"LoRA {content.file}: B of {layer} has {pair.b.shape[0]} rows, which do not divide "
                                  f"into {ROWS[count]} equal parts")
        else:
            parted |= {(layer, i): replace(pair, b=b) for i, b in enumerate(SPLITS[count](pair.b))}
    return parted
