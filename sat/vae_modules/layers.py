"""Layers of the causal 3D VAE. Tensors are (B, C, T, H, W).

The convolutions in them are causal (see `convolution`), and tensors keep the order of `memory_order`.
"""
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.cpu_operations import convolution
from common.tensors import at_least_float32, recorded
from vae_modules.convolution import ELEMENTS_AT_A_TIME, CausalConv3d, CausalState, apply_conv, pointwise
from vae_modules.memory_order import empty_like_layers, in_memory_order, joined
from vae_modules.norms import make_norm, swish


class ResnetBlock3D(nn.Module):
    """A residual block: norm, swish and convolution, twice, plus a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, groups: int,
                 zq_channels: int | None = None):
        super().__init__()
        self.norm1 = make_norm(in_channels, zq_channels, groups)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3)
        self.norm2 = make_norm(out_channels, zq_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, zq: Tensor | None, past: CausalState) -> Tensor:
        """Return the block's result for the chunk x, whose memory it may take where no gradient is recorded."""
        projected = hasattr(self, "nin_shortcut")
        shortcut = pointwise(self.nin_shortcut, x) if projected else x
        h = swish(self.norm1(x, zq, past, overwrites=projected))
        del x  # h is one name for all, so that no result is held longer than needed
        h = self.conv1(h, past, overwrites=True)
        h = swish(self.norm2(h, zq, past, overwrites=True))
        h = self.conv2(self.dropout(h), past, overwrites=True)
        return shortcut + h if recorded() else h.add_(shortcut)


def per_frame(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a 2D operation to every frame of x (B, C, T, H, W)."""
    b, c, t = x.shape[:3]
    y = conv(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


class Downsample3D(nn.Module):
    """A layer that halves height and width by strided convolution, and with `in_time` time by averaging frame pairs.

    An odd number of frames means the video's first chunk, whose first frame is not averaged.
    """

    def __init__(self, channels: int, in_time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.in_time = in_time

    def forward(self, x: Tensor) -> Tensor:
        if self.in_time and x.shape[2] > 1:
            first, rest = x.split([x.shape[2] % 2, x.shape[2] - x.shape[2] % 2], dim=2)
            x = joined(first, 0.5 * (rest[:, :, 0::2] + rest[:, :, 1::2]))
        return per_frame(partial(apply_conv, self.conv), F.pad(x, (0, 1, 0, 1)))


class Upsample3D(nn.Module):
    """A layer that doubles height and width and convolves each frame; with `in_time` it also doubles time.

    The video's first frame is not doubled in time. Doubled frames are convolved once.
    """

    def __init__(self, channels: int, in_time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.in_time = in_time

    def forward(self, x: Tensor, past: CausalState) -> Tensor:
        x = self._larger(x)
        if not self.in_time:
            return x
        index = torch.arange(x.shape[2], device=x.device).repeat_interleave(2)[int(past.leading):]
        return in_memory_order(x[:, :, index])

    def _larger(self, x: Tensor) -> Tensor:
        """Double height and width and convolve, a few frames at a time if they are large, as in `convolve`."""
        by_phase = not torch.is_grad_enabled() and (x.dtype == torch.float32 or x.device.type == "cpu")
        double = partial(upsample_conv_by_phase if by_phase else upsample_conv, self.conv)
        frames = max(ELEMENTS_AT_A_TIME // (4 * x[:, :, 0].numel()), 1)
        if frames >= x.shape[2] or recorded():
            return per_frame(double, x)
        t, height, width = x.shape[2:]
        out = empty_like_layers(x, self.conv.out_channels, t, 2 * height, 2 * width)
        for start in range(0, t, frames):
            out[:, :, start:start + frames] = per_frame(double, x[:, :, start:start + frames])
        return out


def upsample_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve frames (n, C, H, W) after resizing them to twice their height and width by nearest neighbour."""
    return apply_conv(conv, F.interpolate(x, scale_factor=2, mode="nearest"))


def upsample_conv_by_phase(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute `upsample_conv` with 4 multiplications per pixel in place of 9.

    Each output pixel depends on just two rows and two columns of x, in one of four ways: its row and column are even
    or odd. The kernel's taps are summed in float32 or more, and rounded once in bfloat16.
    """
    n, _, height, width = x.shape
    out = x.new_empty(n, 2 * height, 2 * width, conv.out_channels).movedim(-1, 1)
    for row in (0, 1):
        for column in (0, 1):
            kernel = _phase(_phase(at_least_float32(conv.weight), 2, row), 3, column).to(x.dtype)
            out[:, :, row::2, column::2] = convolution(x, kernel, conv.bias, (1, 1))[
                :, :, row:row + height, column:column + width]
    return out


def _phase(weight: Tensor, axis: int, odd: int) -> Tensor:
    """Return the two taps on x that equal the kernel's three taps along `axis` on the doubled pixels.

    At an even pixel the last two taps fall on the same pixel of x, at an odd pixel the first two.
    """
    first, second, third = weight.split(1, dim=axis)
    return torch.cat((first + second, third) if odd else (first, second + third), dim=axis)
