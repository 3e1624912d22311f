"""Plain linear layers in place of SwissArmyTransformer's parallel ones that hold their whole matrix."""
import types

import torch

from common.cpu_operations import linear
from common.swiss_army import mpu


def use_plain_linears(module: torch.nn.Module) -> None:
    """Let the linear layers below `module` that hold their whole matrix compute `precision.linear`.

    For the library's parallel layers: the same numbers without autograd functions around a collective that does
    nothing, with the bias inside the matrix product, and in a form that torch.compile can follow. Layers divided
    among processes stay as they are.
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


def _whole_linear(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return linear(x, self.weight, self.bias)
