"""The order of a tensor's elements in memory.

On a CPU, without gradients, tensors keep their channels last: frames then lie one after the other and can be taken
without a copy, and a kernel of one pixel is a matrix product.
"""
import torch
from torch import Tensor

from common.tensors import recorded


def in_memory_order(x: Tensor) -> Tensor:
    """Return x in the memory format that the layers work in, and which they preserve."""
    return x.contiguous(memory_format=torch.channels_last_3d) if has_channels_last(x) else x


def joined(*parts: Tensor) -> Tensor:
    """Return the frames of all parts (B, C, T, H, W), one after another, in the memory format of the layers.

    It is asked for where it has channels last: torch.cat does not see that in a repeated frame, or in no frames.
    """
    if recorded():
        return torch.cat(parts, dim=2)
    _, channels, _, *sizes = parts[0].shape
    return torch.cat(parts, dim=2, out=empty_like_layers(parts[0], channels, sum(x.shape[2] for x in parts), *sizes))


def empty_like_layers(like: Tensor, channels: int, *sizes: int) -> Tensor:
    """Return an uninitialized tensor (B, channels, *sizes) in the memory format of the layers."""
    order = torch.channels_last_3d if has_channels_last(like) else torch.contiguous_format
    return torch.empty(len(like), channels, *sizes, dtype=like.dtype, device=like.device, memory_format=order)


def has_channels_last(x: Tensor) -> bool:
    """Return True if channels are last in memory: on a CPU without gradients, which are faster the other way."""
    return x.device.type == "cpu" and not recorded()
