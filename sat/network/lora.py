"""LoRA (Hu et al. 2021, equation 3) on linear layers: W x + (alpha / r) B A x, with W unchanged.

Replaces SwissArmyTransformer's own mixin, which cannot be built on the meta device because it copies the weights it
wraps, and which torch.compile cannot trace. Tensor names, shapes and results are the same.
"""
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from common.cpu_operations import linear
from common.errors import ConfigError
from common.kinds import BelowOne, Count, Size
from common.suggestions import nearest
from common.swiss_army import BaseMixin, BaseModel
from common.unread import Unread
from parallel import groups
from weights.links import MERGES
from weights.lora_names import KINDS, MATRICES, PARTS, layer_name


class LoraLinear(nn.Module):
    """The linear layer `original`, weight (out, in), with a low-rank update for each of its `parts` stacked matrices.

    A (r, in) is initialized like the weight of a linear layer and B (out / parts, r) to zero, so the layer's output is
    unchanged at first. A state dict of the layer without LoRA, or a part of one, loads too and leaves A and B alone.
    """

    def __init__(self, original: Any, parts: int, r: int, alpha: float, dropout: float):
        super().__init__()
        self.original, self.scaling, self.dropout = original, alpha / r, dropout
        rows, columns = original.weight.shape
        weight = original.weight
        self.matrix_A = nn.ParameterList(nn.Parameter(weight.new_empty(r, columns)) for _ in range(parts))
        self.matrix_B = nn.ParameterList(nn.Parameter(weight.new_empty(rows // parts, r)) for _ in range(parts))
        self.start()
        self.register_load_state_dict_pre_hook(_take_plain_layer)

    def start(self) -> None:
        """Initialize A like the weight of a linear layer, and B to zero."""
        for a, b in zip(self.matrix_A, self.matrix_B, strict=True):
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.zeros_(b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped = F.dropout(x, self.dropout, self.training)
        updates = [linear(linear(dropped, a, None), b, None)
                   for a, b in zip(self.matrix_A, self.matrix_B, strict=True)]
        return self.original(x) + MERGES[len(updates)](*updates, dim=-1) * self.scaling


def _take_plain_layer(layer: LoraLinear, state_dict: dict, prefix: str, *rest) -> None:
    plain = [kind for kind in ("weight", "bias") if prefix + kind in state_dict]
    if not plain:
        return
    for kind in plain:
        state_dict[f"{prefix}original.{kind}"] = state_dict.pop(prefix + kind)
    for matrix in MATRICES:
        for part, value in enumerate(getattr(layer, matrix)):
            state_dict.setdefault(f"{prefix}{matrix}.{part}", value.detach())


class LoraMixin(BaseMixin):
    """LoRA of rank r on the `targets` of the layers in `layer_range` (None: all layers).

    targets: names of KINDS, or their beginnings: attention, mlp, modulation. Raises ConfigError for an invalid LoRA
    rank, layers or targets that do not exist, for 4-bit weights (`qlora`), and where several processes share one
    transformer.
    """

    UNREAD: ClassVar = {"cross_attention": Unread("the network has no cross attention", (True, False))}

    def __init__(self, layer_num: int, r: Size, lora_alpha: float = 1.0, lora_dropout: BelowOne = 0.0,
                 layer_range: Sequence[Count] | None = None, qlora: bool = False, cross_attention: bool = True,
                 targets: Sequence[str] = ("attention",)):
        super().__init__()
        layers = list(range(layer_num) if layer_range is None else layer_range)
        if not set(layers) <= set(range(layer_num)):
            raise ConfigError(f"lora_config.params.layer_range is {layers}; the model has layers 0 to {layer_num - 1}")
        if not layers or not targets:
            key = "targets" if layers else "layer_range"
            raise ConfigError(f"lora_config.params.{key} is empty, so that the LoRA would have no matrices; name some, "
                              f"or leave {key} out")
        if lora_alpha == 0:
            raise ConfigError("lora_config.params.lora_alpha is 0, so that the LoRA would do nothing; give its "
                              "strength times r, such as r itself")
        if qlora:
            raise ConfigError("lora_config.params.qlora: 4-bit weights are not supported; leave it out")
        if groups.model_parallel_size() > 1:
            raise ConfigError("lora_config does not work with model_parallel_size above 1; set that to 1")
        self.r, self.lora_alpha, self.lora_dropout, self.layers = r, lora_alpha, lora_dropout, layers
        self.kinds = _kinds(targets)

    def reinit(self, parent_model: BaseModel) -> None:
        """Wrap the layers; reinitialize the LoRA matrices of those that are wrapped already."""
        for i in self.layers:
            for kind in self.kinds:
                name = layer_name(kind, i)
                layer = parent_model.get_submodule(name)
                if isinstance(layer, LoraLinear):
                    layer.start()
                else:
                    wrapped = LoraLinear(layer, PARTS[kind], self.r, self.lora_alpha, self.lora_dropout)
                    parent_model.set_submodule(name, wrapped)


def _kinds(targets: Sequence[str]) -> list[str]:
    """Return the kinds of layers that `targets` of a lora_config names."""
    found: dict[str, None] = {}
    for target in targets:
        kinds = [kind for kind in KINDS if kind == target or kind.startswith(f"{target}.")]
        if not kinds:
            raise ConfigError(f"lora_config.params.targets names {target!r}; it takes attention, mlp, modulation, or "
                              f"one of {', '.join(KINDS)}{nearest(target, KINDS)}")
        found |= dict.fromkeys(kinds)
    return [kind for kind in KINDS if kind in found]
