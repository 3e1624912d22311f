"""The memory that a convolution takes beside its tensors, for another arrangement of its input."""
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverloadPacket

from common.cpu_operations import product_dtype

UNFOLDING = ("Slow2d", "Slow3d")  # torch's names of these ways


def rearranged_bytes(operation: OpOverloadPacket, args: Sequence[Any], out: Any, on_cpu: bool) -> int:
    """Return the bytes that an operation, if it is a convolution or its gradient, takes for its rearranged input.

    A convolution copies its input into another order of axes (oneDNN's blocks of channels, cuDNN's channels last).
    Unfolded, the input has a column for each kernel position: on a CPU, in 3D in 16 bits without instructions for them,
    and in training where torch does not give a small input to oneDNN, for the gradient too.
    """
    if operation is torch.ops.aten.convolution:
        unfolded = on_cpu and _is_unfolded(args, torch.is_grad_enabled())
        return _columns(args, out) if unfolded else args[0].nbytes
    if operation is torch.ops.aten.convolution_backward and on_cpu and _is_unfolded(args[1:], trained=True):
        return _columns(args[1:], args[0])
    return 0


def _columns(args: Sequence[Any], out: Tensor) -> int:
    x, weight = args[:2]
    return prod(weight.shape[1:]) * prod(out.shape[2:]) * x.element_size()


def _is_unfolded(args: Sequence[Any], trained: bool) -> bool:
    """Return True if a CPU unfolds the input of a convolution; `args` are those of torch.ops.aten.convolution."""
    x, weight, _, *settings = args[:9]
    if x.dtype != torch.float32:
        return x.dim() == 5 and product_dtype(x.dtype) != x.dtype
    if not trained:  # oneDNN computes it (cpu_operations.convolution)
        return False
    real = [torch.empty((), device="cpu").expand(tensor.shape) for tensor in (x, weight)]
    return torch._C._select_conv_backend(*real, None, *settings, None).name in UNFOLDING
