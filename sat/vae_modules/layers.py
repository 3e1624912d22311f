"""Layers of the causal 3D VAE. Tensors are (B, C, T, H, W).

Time is causal: a convolution sees its own frame and the two before it. What comes before a chunk is held in a
`Past`, handed down through every layer, so that decoding chunk by chunk equals decoding with those frames at hand.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Past:
    """The last input frames of every causal convolution: read from the chunk before, written for the next.

    Layers only see one pass: `before` is what the previous chunk left (empty for the first), `after` collects what
    this chunk leaves. Neither is changed once the pass is over, so a state can be kept, copied or reused.
    """

    def __init__(self, before: dict[nn.Module, Tensor] | None = None):
        self.before = before or {}
        self.after: dict[nn.Module, Tensor] = {}

    @property
    def leading(self) -> bool:
        """Whether this chunk opens the video, so that its first frame stands alone in time."""
        return not self.before


class CausalConv3d(nn.Module):
    """3D convolution that never looks ahead: time is padded in front, with the first frame or with the past's last frames."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, padding=(0, kernel_size // 2, kernel_size // 2))
        self.lookback = kernel_size - 1

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.lookback == 0:
            return self.conv(x)
        front = past.before.get(self)
        if front is None:
            front = x[:, :, :1].expand(-1, -1, self.lookback, -1, -1)
        x = torch.cat([front.to(x.dtype), x], dim=2)
        past.after[self] = x[:, :, -self.lookback:]
        return self.conv(x)


def resize_causal(x: Tensor, size: tuple[int, int, int], lone_first: bool) -> Tensor:
    """Nearest-neighbour resize to (T, H, W); with `lone_first` the first frame maps to the first frame alone."""
    if lone_first and size[0] > 1:
        first = F.interpolate(x[:, :, :1], size=(1, *size[1:]), mode="nearest")
        rest = F.interpolate(x[:, :, 1:], size=(size[0] - 1, *size[1:]), mode="nearest")
        return torch.cat([first, rest], dim=2)
    return F.interpolate(x, size=size, mode="nearest")


class SpatialNorm(nn.Module):
    """`GroupNorm(f) * conv_y(zq) + conv_b(zq)`, zq the latent at f's size (MoVQ, arXiv 2209.09002, eq. 4).

    The 1x1x1 convolutions commute with nearest-neighbour resizing, so they run on the small latent.
    """

    def __init__(self, channels: int, zq_channels: int, groups: int):
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_y = CausalConv3d(zq_channels, channels, 1)
        self.conv_b = CausalConv3d(zq_channels, channels, 1)

    def forward(self, f: Tensor, zq: Tensor, past: Past) -> Tensor:
        size = tuple(f.shape[2:])
        y = resize_causal(self.conv_y(zq, past), size, past.leading)
        b = resize_causal(self.conv_b(zq, past), size, past.leading)
        return torch.addcmul(b, self.norm_layer(f), y)


class PlainNorm(nn.GroupNorm):
    """The encoder's norm, with SpatialNorm's call."""

    def __init__(self, channels: int, groups: int):
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, f: Tensor, zq: None, past: Past) -> Tensor:
        return super().forward(f)


class ResnetBlock3D(nn.Module):
    """norm, swish, convolution, twice, beside a shortcut."""

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

    def forward(self, x: Tensor, zq: Tensor | None, past: Past) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, zq, past)), past)
        h = self.conv2(self.dropout(F.silu(self.norm2(h, zq, past))), past)
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return shortcut + h


def make_norm(channels: int, zq_channels: int | None, groups: int) -> nn.Module:
    return PlainNorm(channels, groups) if zq_channels is None else SpatialNorm(channels, zq_channels, groups)


def per_frame(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 2D convolution on every frame of (B, C, T, H, W)."""
    b, c, t = x.shape[:3]
    y = conv(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


class Downsample3D(nn.Module):
    """Halves height and width by a strided convolution; with `in_time` also time, by averaging pairs of frames.

    An odd number of frames opens the video: the first stands alone.
    """

    def __init__(self, channels: int, in_time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.in_time = in_time

    def forward(self, x: Tensor) -> Tensor:
        if self.in_time and x.shape[2] > 1:
            first, rest = x.split([x.shape[2] % 2, x.shape[2] - x.shape[2] % 2], dim=2)
            x = torch.cat([first, 0.5 * (rest[:, :, 0::2] + rest[:, :, 1::2])], dim=2)
        return per_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


class Upsample3D(nn.Module):
    """Doubles height and width, with `in_time` also time (a video's first frame stays single), then convolves each frame."""

    def __init__(self, channels: int, in_time: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.in_time = in_time

    def forward(self, x: Tensor, past: Past) -> Tensor:
        t, h, w = x.shape[2:]
        if self.in_time:
            t = 2 * t - 1 if past.leading else 2 * t
        return per_frame(self.conv, resize_causal(x, (t, 2 * h, 2 * w), past.leading))
