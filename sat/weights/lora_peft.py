"""Writing of LoRAs in PEFT's layout, which diffusers' pipelines use (`load_lora_weights`).

One safetensors file holds A (r, in) and B (out, r) of each projection as `transformer.PROJECTION.lora_A.weight` and
`...lora_B.weight`. Rank and alpha are in its metadata.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from common.files import whole_file
from weights.diffusers_layout import diffusers_names
from weights.lora_files import BASE, CONFIG, FILE, PREFIX
from weights.lora_names import Lora


def write_peft(folder: Path, lora: Lora) -> Path:
    """Write `<folder>/pytorch_lora_weights.safetensors`, keeping the tensors' dtypes, and return its path."""
    names = {_peft_name(name): name for name in lora.matrices}
    config = {"r": lora.rank, "lora_alpha": lora.alpha,
              "target_modules": sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in names})}
    metadata = {"format": "pt", CONFIG: json.dumps({PREFIX + key: value for key, value in config.items()})}
    if lora.base is not None:
        metadata[BASE] = json.dumps({name: list(value.shape) for name, value in lora.base.items()})
    # Copied, because parts of a layer may share a matrix, which the format does not allow.
    tensors = {theirs: lora.matrices[own].clone(memory_format=torch.contiguous_format) for theirs, own in names.items()}
    with whole_file(folder / FILE) as file:
        save_file(tensors, file, metadata)
    return folder / FILE


def _peft_name(name: str) -> str:
    stem, matrix, part = name.rsplit(".", 2)
    names = diffusers_names(stem) or ()
    return f"{PREFIX}{names[int(part)]}.lora_{matrix[-1]}.weight"
