"""Reading and writing of LoRAs in PEFT's layout, which diffusers' pipelines use (`load_lora_weights`).

One safetensors file holds A (r, in) and B (out, r) of each projection as `transformer.PROJECTION.lora_A.weight` and
`...lora_B.weight`. Rank and alpha are in its metadata; without it, alpha equals the rank, as in diffusers.
"""
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import CheckpointError
from common.files import whole_file
from weights.diffusers_layout import diffusers_names
from weights.lora_names import Lora, matrix_names

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
CONFIG = "lora_adapter_metadata"  # PEFT's LoraConfig as JSON, each key starting with PREFIX
BASE = "base_shapes"  # ours; diffusers ignores it
NAME = re.compile(r"transformer\.transformer_blocks\.(\d+)\..+\.lora_[AB]\.weight")
# PEFT settings under which the same matrices compute something else.
OTHER_KINDS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias")


def is_peft(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def write_peft(folder: Path, lora: Lora) -> Path:
    """Write `<folder>/pytorch_lora_weights.safetensors`, keeping the tensors' dtypes, and return its path."""
    names = {_peft_name(name): name for name in lora.matrices}
    config = {"r": lora.rank, "lora_alpha": lora.alpha,
              "target_modules": sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in names})}
    metadata = {"format": "pt", CONFIG: json.dumps({PREFIX + key: value for key, value in config.items()})}
    if lora.base is not None:
        metadata[BASE] = json.dumps({name: list(value.shape) for name, value in lora.base.items()})
    with whole_file(folder / FILE) as file:
        save_file({theirs: lora.matrices[own].contiguous() for theirs, own in names.items()}, file, metadata)
    return folder / FILE


def from_peft(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: Path) -> Lora:
    """Convert a LoRA from PEFT's layout.

    Raises CheckpointError unless it is a plain LoRA on the attention's four projections and its metadata is valid.
    """
    layers = sorted({int(match[1]) for match in map(NAME.fullmatch, tensors) if match})
    names = {own: _peft_name(own) for own in matrix_names(layers)}
    _check_projections(set(tensors), set(names.values()), source)
    config = {key.removeprefix(PREFIX): value for key, value in _json(metadata, CONFIG, source).items()}
    for key in OTHER_KINDS:
        if config.get(key):
            raise CheckpointError(f"LoRA {source} has {key} set, which is not supported; convert a plain LoRA")
    shapes = _json(metadata, BASE, source)
    base = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    lora = Lora({own: tensors[theirs] for own, theirs in names.items()}, 0.0, base or None)
    return replace(lora, alpha=float(config.get("lora_alpha", lora.rank)))


def _peft_name(name: str) -> str:
    stem, matrix, part = name.rsplit(".", 2)
    names = diffusers_names(stem) or ()
    return f"{PREFIX}{names[int(part)]}.lora_{matrix[-1]}.weight"


def _check_projections(given: set[str], wanted: set[str], source: Path) -> None:
    for names, fault in ((given - wanted, "has"), (wanted - given, "lacks")):
        if names:
            raise CheckpointError(f"LoRA {source} {fault} {min(names)}; only a LoRA on all of the attention's to_q, "
                                  "to_k, to_v and to_out.0 can be read")


def _json(metadata: Mapping[str, str], key: str, source: Path) -> dict:
    try:
        value = json.loads(metadata.get(key, "{}"))
    except ValueError as error:
        raise CheckpointError(f"LoRA {source}: its metadata {key} is not JSON; copy the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"LoRA {source}: its metadata {key} is not a mapping; copy the file again")
    return value
