"""Plain linear layers in place of SwissArmyTransformer's parallel ones that hold their whole matrix."""
import types
from typing import Any

import torch

from common.cpu_operations import linear
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
