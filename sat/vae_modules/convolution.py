"""Causal convolutions of the VAE, chunk by chunk and in strips. Tensors are (B, C, T, H, W).

Time is causal: a convolution sees its own frame and the two before it. The frames before a chunk are held in a
`Past`, which is handed down through every layer, so that decoding chunk by chunk equals decoding all at once.
"""
import torch
from torch import Tensor, nn

from common.cpu_operations import convolution, linear
from common.tensors import recorded
from vae_modules import winograd
from vae_modules.memory_order import has_channels_last, room

# Numbers that large frames are worked on together, where that saves memory, and rows enough for their neighbours not to
# count.
AT_A_TIME, MIN_ROWS = 2**27, 16


class Past:
    """The last input frames of every causal convolution: read from the chunk before, written for the next.

    Layers only see one pass: `before` is what the previous chunk left (empty for the first), `after` collects what
    this chunk leaves, nothing where it is the video's last (`closing`). Frames are let go as they are taken, while what
    was given as `before` stays as it is: a state can be kept, copied or reused, unless this one `overwrites` it.
    """

    def __init__(self, before: dict[nn.Module, Tensor] | None = None, closing: bool = False, overwrites: bool = False):
        self._before = dict(before or {})
        self.leading = not before  # this chunk opens the video, so that its first frame stands alone in time
        self.closing = closing
        self.overwrites = overwrites
        self.after: dict[nn.Module, Tensor] = {}

    def take(self, layer: nn.Module, like: Tensor) -> Tensor:
        """The frames before this chunk, of the size and type of `like` (B, C, lookback, H, W)."""
        return self._before.pop(layer)

    def pass_on(self, frames: Tensor) -> None:
        """Called with the frames that will be left before the layer computes."""

    def leave(self, layer: nn.Module, frames: Tensor, spent: Tensor) -> None:
        """Keeps a copy of these frames, in the place of those `spent` where they may be overwritten: a view would keep
        all frames of the chunk in memory, and new places leave gaps in the heap, more with every chunk."""
        if not self.closing:
            overwrites = self.overwrites and not self.leading and not recorded()
            self.after[layer] = spent.copy_(frames) if overwrites else frames.clone()


class CausalConv3d(nn.Module):
    """3D convolution that never looks ahead: time is padded in front, by the first frame or the past's last ones."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, padding=(0, kernel_size // 2, kernel_size // 2))
        self.lookback = kernel_size - 1

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.lookback == 0:
            return pointwise(self.conv, x)
        front = x[:, :, :1].expand(-1, -1, self.lookback, -1, -1)
        if not past.leading:
            front = past.take(self, front).to(x.dtype)
        last = x if x.shape[2] >= self.lookback else torch.cat((front, x), dim=2)
        last = last[:, :, -self.lookback:]
        past.pass_on(last)
        if winograd.pays(x, self.conv.weight):
            out = winograd.convolve(front, x, self.conv.weight, self.conv.bias)
        else:
            out = convolve(self.conv, front, x)
        past.leave(self, last, front)
        return out


def convolve(conv: nn.Conv3d, front: Tensor, x: Tensor) -> Tensor:
    """Of x (B, C, T, H, W) after the two frames `front`.

    Where no gradient is recorded large frames go strip by strip, so that joined frames and the kernel's copy of them
    are small, and count less than 2^31 numbers, which many kernels stop at. A strip brings the rows beside it; what
    comes out for those is left out.
    """
    height = x.shape[3]
    rows = max(AT_A_TIME // (front[:, :, :, 0].numel() + x[:, :, :, 0].numel()), MIN_ROWS)
    if rows >= height or recorded():
        return applied(conv, torch.cat((front, x), dim=2))
    out = room(x, conv.out_channels, *x.shape[2:])
    for top in range(0, height, rows):
        above, below = max(top - 1, 0), min(top + rows + 1, height)
        strip = applied(conv, torch.cat((front[:, :, :, above:below], x[:, :, :, above:below]), dim=2))
        out[:, :, :, top:top + rows] = strip[:, :, :, top - above:top - above + rows]
    return out


def applied(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    return convolution(x, conv.weight, conv.bias, conv.padding, conv.stride[0])


def pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution whose kernel is one pixel."""
    if not has_channels_last(x):
        return conv(x)
    return linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)
