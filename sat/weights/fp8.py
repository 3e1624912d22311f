"""Weights stored in 8 bits, as ComfyUI's files have them: float8 tensors, most often with a scale for each.

A tensor NAME.weight with a scale NAME.scale_weight (one number, or one for each row) stands for the product of both,
computed in float32; without a scale it stands for itself. Scales of activations do not concern the weights.
"""
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.errors import CheckpointError
from common.listing import listed

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
WIDE = torch.bfloat16  # holds every float8 number
SCALES = (".scale_weight", ".weight_scale")  # instead of .weight; two generations of files
ASIDE = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")  # for computing in float8, or a mark
# Endings that other quantizers add, whose weights are not plain products.
QUANTIZERS = {"._data": "quanto", "._scale": "quanto", ".SCB": "bitsandbytes", ".absmax": "bitsandbytes",
              ".quant_map": "bitsandbytes", ".qweight": "GPTQ or AWQ", ".weight_scale_2": "NVFP4"}
ADVICE = "take the weights as bf16, fp16 or float8"


class Widened(Mapping[str, Tensor]):
    """The tensors of a part, of which those stored in float8 are widened whenever they are asked for.

    `stored` has the tensors by their names on disk, `theirs` maps the part's names to these. Those with a scale become
    float32, others bfloat16. Raises CheckpointError for a scale whose shape does not fit.
    """

    def __init__(self, stored: Mapping[str, Tensor], theirs: Mapping[str, str], source: Path):
        self.stored, self.theirs, self.source = stored, theirs, source

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.stored[self.theirs[name]]
        if tensor.dtype not in FLOAT8:
            return tensor
        scale = scale_of(name, self.theirs)
        if scale is None:
            return tensor.to(WIDE)
        factor = self.stored[self.theirs[scale]].float()
        rows = tensor.shape[0] if tensor.ndim else 1
        if factor.numel() not in (1, rows):
            raise CheckpointError(f"checkpoint {self.source}: {self.theirs[scale]} of shape {tuple(factor.shape)} does "
                                  f"not scale {name} of shape {tuple(tensor.shape)}; one number, or one for each row, "
                                  f"can be read; {ADVICE} with such scales")
        return tensor.float() * factor.reshape([-1] + [1] * (tensor.ndim - 1) if tensor.ndim else [])

    def __iter__(self) -> Iterator[str]:
        return iter(self.theirs)

    def __len__(self) -> int:
        return len(self.theirs)


def scale_of(name: str, names: Mapping[str, str]) -> str | None:
    """Return the name of a tensor's scale; None if it has none."""
    stem = name.removesuffix(".weight")
    return next((stem + ending for ending in SCALES if stem != name and stem + ending in names), None)


def without_scales(names: Iterable[str]) -> list[str]:
    """Return the names of a part without those of scales and marks."""
    return [name for name in names if not name.endswith((*SCALES, *ASIDE))]


def check_quantized(state: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError for weights in 8 or fewer bits that are not float8, or float8 of a quantizer's own layout.

    `state` has the tensors by the part's names.
    """
    for name in state:
        ending = next((ending for ending in QUANTIZERS if name.endswith(ending)), None)
        if ending is not None:
            raise CheckpointError(f"checkpoint {source} is quantized by {QUANTIZERS[ending]} ({name}), which is not "
                                  f"read; {ADVICE}")
    small = [f"{name} is {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in state.items()
             if tensor.dtype not in FLOAT8 and tensor.element_size() == 1 and not name.endswith(ASIDE)]
    if small:
        raise CheckpointError(f"checkpoint {source} is quantized in a way that is not read ({listed(small)}); {ADVICE}")


def described(state: Mapping[str, Tensor]) -> list[str]:
    """Return clauses on weights stored in float8, for a message; `state` has the tensors by the part's names."""
    found = {name for name, tensor in state.items() if tensor.dtype in FLOAT8}
    if not found:
        return []
    names = {name: name for name in state}
    scaled = sum(scale_of(name, names) is not None for name in found)
    return [f"float8 with {scaled} scales" if scaled else "float8 without scales"]
