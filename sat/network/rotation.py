"""Rotation of queries and keys by their positions, after the LayerNorm of each head.

Shapes: B batch, h heads, S tokens [text, video], d head dim.
"""
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import nn

from common.tensors import at_least_float32, piece_length, recorded

CACHED_ELEMENTS = 2**18  # whose float32 values stay in the caches of few cores
Rotary = tuple[torch.Tensor, torch.Tensor]


class RotatedNorm(nn.LayerNorm):
    """A LayerNorm of each head's queries or keys, which rotates them in the same pass."""

    def forward(self, x: torch.Tensor, rotary: Rotary | None = None, turns: torch.Tensor | None = None) -> torch.Tensor:
        """Return the LayerNorm of x (B, h, S, d), rotated as `rotate` does if `rotary` is given."""
        if rotary is None:
            return super().forward(x)
        if torch.compiler.is_compiling():
            out = _normed_and_rotated(x, self, rotary)
            return out.contiguous() if x.device.type == "cpu" else out  # heads together, which attention is faster for
        if _in_pieces(x):
            weight, bias = (None if term is None else at_least_float32(term) for term in (self.weight, self.bias))
            normed = partial(F.layer_norm, normalized_shape=self.normalized_shape, weight=weight, bias=bias,
                             eps=self.eps)
            return _rotated_in_pieces(x, _turns(rotary, turns), normed)
        return rotate(super().forward(x), rotary, turns)


def rotate(x: torch.Tensor, rotary: Rotary, turns: torch.Tensor | None = None) -> torch.Tensor:
    """Rotate each pair (x0, x1) of the last axis by its angle: (x0 cos - x1 sin, x1 cos + x0 sin), in float32 or more.

    x: (B, h, S, d); rotary: cosines and sines, (S, d / 2) each; turns: the same as complex numbers, if they are at
    hand. RoFormer (Su et al. 2021), equation 34, with neighbouring channels as pairs.
    """
    if torch.compiler.is_compiling() or not has_complex(x.device):  # the compiler fuses real arithmetic alone
        pairs = at_least_float32(x).unflatten(-1, (-1, 2))
        return _rotated(pairs, pairs.flip(-1), rotary).to(x.dtype)
    if _in_pieces(x):
        return _rotated_in_pieces(x, _turns(rotary, turns))
    return _turned(at_least_float32(x), _turns(rotary, turns)).to(x.dtype)


def _in_pieces(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and not recorded()


def _turns(rotary: Rotary, turns: torch.Tensor | None) -> torch.Tensor:
    return torch.complex(*rotary) if turns is None else turns


def _rotated_in_pieces(x: torch.Tensor, turns: torch.Tensor, normed: Callable[..., torch.Tensor] | None = None
                       ) -> torch.Tensor:
    """Return x, normalised and rotated a few tokens at a time, whose float32 values stay in the processor's cache."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    at_once = piece_length(CACHED_ELEMENTS // (x.shape[1] * x.shape[3]), x.shape[2], x)
    for row, row_out in zip(x.transpose(1, 2), out.transpose(1, 2), strict=True):  # (S, h, d) each
        for tokens, target, turn in zip(*(each.split(at_once) for each in (row, row_out, turns)), strict=True):
            wide = torch.promote_types(tokens.dtype, torch.float32)
            values = tokens.to(wide, copy=True) if normed is None else normed(tokens.to(wide))
            torch.view_as_complex(values.unflatten(-1, (-1, 2))).mul_(turn[:, None])
            target.copy_(values)
    return out


def _normed_and_rotated(x: torch.Tensor, norm: RotatedNorm, rotary: Rotary) -> torch.Tensor:
    """Return x, normalised and rotated, as one expression, which the compiler makes one kernel of."""
    variance, mean = torch.var_mean(at_least_float32(x), dim=-1, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + norm.eps)[..., None]
    pairs = at_least_float32(x).unflatten(-1, (-1, 2)) - mean[..., None]
    straight, swapped = pairs * scale, pairs.flip(-1) * scale
    if norm.weight is not None:
        weight, bias = (at_least_float32(term).unflatten(-1, (-1, 2)) for term in (norm.weight, norm.bias))
        straight, swapped = straight * weight + bias, swapped * weight.flip(-1) + bias.flip(-1)
    return _rotated(straight, swapped, rotary).to(x.dtype)


def _rotated(pairs: torch.Tensor, swapped: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    cos, sin = rotary
    return (pairs * cos[..., None] + swapped * torch.stack((-sin, sin), dim=-1)).flatten(-2)


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


@cache
def has_complex(device: torch.device) -> bool:
    """Return True if a device multiplies complex numbers, which not every accelerator does."""
    if device.type in ("cpu", "meta"):
        return True
    try:
        one = torch.ones(1, 2, device=device)
        torch.view_as_real(torch.view_as_complex(one) * torch.complex(one[0], one[0]))
    except (RuntimeError, TypeError):
        return False
    return True
