"""The norms of the causal 3D VAE, and the activation after them. Tensors are (B, C, T, H, W)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.tensors import at_least_float32, recorded
from vae_modules.convolution import CausalConv3d, CausalState
from vae_modules.memory_order import empty_like_layers, has_channels_last

ELEMENTS_AT_A_TIME = 2**21  # of a tensor that is normalized in its own memory: about a processor's cache


def swish(x: Tensor) -> Tensor:
    """Return x sigmoid(x), in x's memory where no gradient is recorded."""
    return F.silu(x, inplace=not recorded())


class SpatialNorm(nn.Module):
    """The norm `GroupNorm(f) * conv_y(zq) + conv_b(zq)`, the latent zq at f's size (MoVQ, arXiv 2209.09002, eq. 4).

    The 1 x 1 x 1 convolutions commute with nearest-neighbour resizing, so they run on the small latent.
    """

    def __init__(self, channels: int, zq_channels: int, groups: int):
        super().__init__()
        self.norm_layer = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_y = CausalConv3d(zq_channels, channels, 1)
        self.conv_b = CausalConv3d(zq_channels, channels, 1)

    def forward(self, f: Tensor, zq: Tensor, past: CausalState, overwrites: bool = False) -> Tensor:
        """Return f normalized; `overwrites` allows it to take f's memory."""
        f, y, b = group_norm(self.norm_layer, f, overwrites), self.conv_y(zq, past), self.conv_b(zq, past)
        parts = [slice(0, 1), slice(1, None)] if past.leading and zq.shape[2] > 1 else [slice(None)]
        out = [modulate(f[:, :, part], y[:, :, part], b[:, :, part]) for part in parts]
        return torch.cat(out, dim=2) if recorded() else f


def modulate(f: Tensor, y: Tensor, b: Tensor) -> Tensor:
    """Return f * y + b, where y and b hold one value per block of f's frames, rows and columns.

    The result takes f's memory where no gradient is recorded.
    """
    for axis in (2, 4, 6):
        f = f.unflatten(axis, (y.shape[axis], -1))
        y, b = y.unsqueeze(axis + 1), b.unsqueeze(axis + 1)
    out = torch.addcmul(b, f, y, out=None if recorded() else f)
    return out.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class PlainNorm(nn.GroupNorm):
    """The encoder's GroupNorm, called like SpatialNorm."""

    def __init__(self, channels: int, groups: int):
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, f: Tensor, zq: None = None, past: CausalState | None = None, overwrites: bool = False) -> Tensor:
        """Return f normalized; `overwrites` allows it to take f's memory."""
        return group_norm(self, f, overwrites)


def make_norm(channels: int, zq_channels: int | None, groups: int) -> nn.Module:
    """Return a SpatialNorm of `zq_channels`, or a PlainNorm if that is None."""
    return PlainNorm(channels, groups) if zq_channels is None else SpatialNorm(channels, zq_channels, groups)


def group_norm(norm: nn.GroupNorm, f: Tensor, overwrites: bool) -> Tensor:
    """Return GroupNorm of f; `overwrites` allows it to take f's memory, which it does where channels are last.

    There torch's kernel takes the variance as a difference of two sums, which rounding can make too small by far, and
    always takes new memory.
    """
    if not has_channels_last(f):
        return F.group_norm(f, norm.num_groups, norm.weight, norm.bias, norm.eps)
    out = f if overwrites else empty_like_layers(f, *f.shape[1:])
    weight, bias = at_least_float32(norm.weight), at_least_float32(norm.bias)
    frames = max(ELEMENTS_AT_A_TIME // f[:1, :, 0].numel(), 1)
    for video, result in zip(f.split(1), out.split(1), strict=True):
        mean, variance = _moments(video, norm.num_groups)
        for part, its_result in zip(video.split(frames, dim=2), result.split(frames, dim=2), strict=True):
            its_result.copy_(F.batch_norm(part, mean, variance, weight, bias, eps=norm.eps))  # by moments of groups
    return out


def _moments(video: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the group that each channel of a video (1, C, T, H, W) belongs to, at least float32.

    They come from those of the channels, which are counted in one pass where channels are last. A group's variance is
    the mean of its channels' variances plus the variance of their means.
    """
    unused = at_least_float32(video.new_zeros(video.shape[1]))  # running statistics, which also set the precision
    mean, variance = (each.view(groups, -1) for each in torch.batch_norm_update_stats(video, unused, unused.clone(), 0))
    center = mean.mean(dim=1, keepdim=True)
    spread = (variance + (mean - center).square()).mean(dim=1, keepdim=True)
    return center.expand_as(mean).flatten(), spread.expand_as(mean).flatten()
