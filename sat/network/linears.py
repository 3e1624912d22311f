"""Plain linear layers in place of SwissArmyTransformer's parallel ones that hold their whole matrix."""
import types
from collections.abc import Callable
from typing import Any

import torch

from common.cpu_operations import gelu_tanh, linear, linear_gelu_tanh
from common.swiss_army import mpu


def use_plain_linears(module: torch.nn.Module) -> None:
    """Make every linear layer in `module` that holds its whole matrix compute `cpu_operations.linear`.

    SwissArmyTransformer's parallel layers then give the same results without autograd functions around a collective
    that does nothing, with the bias inside the matrix product, and in a form that torch.compile can trace. Layers
    divided among processes are left alone.
    """
    for layer in module.modules():
        if isinstance(layer, mpu.ColumnParallelLinear):
            whole = layer.output_size_per_partition == layer.output_size
        elif isinstance(layer, mpu.RowParallelLinear):
            whole = layer.input_size_per_partition == layer.input_size
        else:
            whole = type(layer) is torch.nn.Linear
        if whole:
            layer.forward = types.MethodType(_whole_linear, layer)


def _whole_linear(self: Any, x: torch.Tensor) -> torch.Tensor:
    return linear(x, self.weight, self.bias)


def activated(layer: Any, x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return activation(layer(x)), in one operation if it is GELU after a plain linear layer."""
    hooked = layer._forward_pre_hooks or layer._forward_hooks  # as that which brings an offloaded layer's weights
    plain = getattr(layer.forward, "__func__", None) is _whole_linear
    if plain and not hooked and activation is gelu_tanh:
        return linear_gelu_tanh(x, layer.weight, layer.bias)
    return activation(layer(x))
