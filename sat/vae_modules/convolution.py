"""Causal convolutions of the VAE, chunk by chunk and in strips. Tensors are (B, C, T, H, W).

Time is causal: a convolution sees its own frame and the two before it. The frames before a chunk are held in a
`CausalState`, which is handed down through every layer, so that decoding chunk by chunk equals decoding all at once.
"""
import torch
from torch import Tensor, nn

from common.cpu_operations import convolution, linear
from common.tensors import recorded
from vae_modules import winograd
from vae_modules.memory_order import empty_like_layers, has_channels_last, joined

# Elements to compute at a time where that saves memory, and the fewest rows of a strip, so that the neighbouring rows
# computed with it cost little.
ELEMENTS_AT_A_TIME, MIN_ROWS = 2**27, 16


class CausalState:
    """The last input frames of every causal convolution: read from the chunk before, written for the next.

    It serves one chunk: `before` is what the chunk before left (empty for the first), and `after` collects what this
    chunk leaves, which is nothing for the video's last (`closing`). Frames are released as they are taken. The
    dictionary given as `before` is unchanged, so that a state can be kept, copied or reused, unless `overwrites` allows
    this chunk to reuse its memory.
    """

    def __init__(self, before: dict[nn.Module, Tensor] | None = None, closing: bool = False, overwrites: bool = False):
        self._before = dict(before or {})
        self.leading = not before  # the video's first chunk, whose first frame stands alone in time
        self.closing = closing
        self.overwrites = overwrites
        self.after: dict[nn.Module, Tensor] = {}

    def take(self, layer: nn.Module, like: Tensor) -> Tensor:
        """Return the layer's frames before this chunk, of the size and dtype of `like` (B, C, lookback, H, W)."""
        return self._before.pop(layer)

    def pass_on(self, frames: Tensor) -> None:
        """Do nothing; called, before the layer computes, with the frames that it will store."""

    def store(self, layer: nn.Module, frames: Tensor, spent: Tensor) -> None:
        """Keep a copy of the layer's last frames, written over the `spent` ones where `overwrites` allows that.

        A view would keep all frames of the chunk in memory, and a new allocation for every chunk fragments the heap.
        """
        if not self.closing:
            overwrites = self.overwrites and not self.leading and not recorded()
            self.after[layer] = spent.copy_(frames) if overwrites else frames.clone()


class CausalConv3d(nn.Module):
    """A 3D convolution that never looks ahead: time is padded in front, by the first frame or by those of `past`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, padding=(0, kernel_size // 2, kernel_size // 2))
        self.lookback = kernel_size - 1

    def forward(self, x: Tensor, past: CausalState, overwrites: bool = False) -> Tensor:
        """Return the convolution of the chunk x; `overwrites` allows it to take x's memory."""
        if self.lookback == 0:
            return pointwise(self.conv, x)
        front = x[:, :, :1].expand(-1, -1, self.lookback, -1, -1)
        if not past.leading:
            front = past.take(self, front).to(x.dtype)
        last = x if x.shape[2] >= self.lookback else torch.cat((front, x), dim=2)
        last = last[:, :, -self.lookback:]
        past.pass_on(last)
        if winograd.pays(x, self.conv.weight, past.leading):
            out, last = winograd.convolve(front, x, self.conv.weight, self.conv.bias, past.leading, overwrites)
        else:
            out = convolve(self.conv, front, x)
        past.store(self, last, front)
        return out


def convolve(conv: nn.Conv3d, front: Tensor, x: Tensor) -> Tensor:
    """Return the convolution of x (B, C, T, H, W), preceded by the two frames `front`.

    Where no gradient is recorded, large frames are computed strip by strip, so that the joined frames and the kernel's
    copy of them are small and have fewer than 2^31 elements, the limit of many kernels. A strip includes its
    neighbouring rows, whose own results are dropped.
    """
    height = x.shape[3]
    rows = max(ELEMENTS_AT_A_TIME // (front[:, :, :, 0].numel() + x[:, :, :, 0].numel()), MIN_ROWS)
    if rows >= height or recorded():
        return apply_conv(conv, joined(front, x))
    out = empty_like_layers(x, conv.out_channels, *x.shape[2:])
    for top in range(0, height, rows):
        above, below = max(top - 1, 0), min(top + rows + 1, height)
        strip = apply_conv(conv, joined(front[:, :, :, above:below], x[:, :, :, above:below]))
        out[:, :, :, top:top + rows] = strip[:, :, :, top - above:top - above + rows]
    return out


def apply_conv(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Compute conv(x) by `cpu_operations.convolution`."""
    assert not isinstance(conv.padding, str)
    return convolution(x, conv.weight, conv.bias, conv.padding, conv.stride[0])


def pointwise(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Compute a convolution whose kernel is 1 x 1 x 1."""
    if not has_channels_last(x):
        return conv(x)
    return linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)
