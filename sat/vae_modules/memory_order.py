"""The order of a tensor's elements in memory.

On a CPU, without gradients, tensors keep their channels last: frames then lie one after the other and can be taken
without a copy, and a kernel of one pixel is a matrix product.
"""
import torch
from torch import Tensor

from common.tensors import recorded


def in_memory_order(x: Tensor) -> Tensor:
    """The order that the layers work in; what follows keeps to it."""
    return x.contiguous(memory_format=torch.channels_last_3d) if has_channels_last(x) else x


def room(like: Tensor, channels: int, *sizes: int) -> Tensor:
    """Memory for (B, channels, T, H, W), in that order, whose content is arbitrary."""
    order = torch.channels_last_3d if has_channels_last(like) else torch.contiguous_format
    return torch.empty(len(like), channels, *sizes, dtype=like.dtype, device=like.device, memory_format=order)


def has_channels_last(x: Tensor) -> bool:
    """Gradients are faster the other way."""
    return x.device.type == "cpu" and not recorded()
