"""Attention and rotary embedding as pure functions. Shapes: B batch, h heads, S tokens [text, video], d head dim."""
from functools import cache

import torch
import torch.nn.functional as F

from common.cpu_operations import product_dtype
from common.tensors import recorded
from network.cpu_attention import attention_in_training, attention_on_cpu

HEADS_AT_A_TIME = 4


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return unmasked attention, (B, S, h·d), for queries, keys and values of (B, h, S, d).

    A CPU that only emulates float16 computes it in float32; for bfloat16 torch's kernel is as fast without.
    """
    q, k, v = heads_first(q), heads_first(k), heads_first(v)
    if q.device.type == "cpu" and q.dtype == torch.float16 != product_dtype(q.dtype):
        return attention(q.float(), k.float(), v.float(), dropout).to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not dropout:
        if not torch.is_grad_enabled():
            return attention_on_cpu(q, k, v).flatten(2)
        if not torch.compiler.is_compiling():
            return attention_in_training(q, k, v).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def heads_first(x: torch.Tensor) -> torch.Tensor:
    """Return x (B, h, S, d) with each head's tokens together in memory on a CPU, where attention is faster then."""
    return x.contiguous() if x.device.type == "cpu" and not torch.compiler.is_compiling() else x


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], turns: torch.Tensor | None = None
           ) -> torch.Tensor:
    """Rotate each pair (x0, x1) of the last axis by its angle: (x0 cos - x1 sin, x1 cos + x0 sin), in float32.

    x: (B, h, S, d); rotary: cosines and sines, (S, d / 2) each; turns: the same as complex numbers, if they are at
    hand. RoFormer (Su et al. 2021), equation 34, with neighbouring channels as pairs.
    """
    cos, sin = rotary
    if torch.compiler.is_compiling() or not has_complex(x.device):  # the compiler fuses real arithmetic alone
        pairs = x.float().unflatten(-1, (-1, 2))
        return _rotated(pairs, pairs.flip(-1), cos, sin).to(x.dtype)
    turns = torch.complex(cos, sin) if turns is None else turns
    if recorded() or x.device.type != "cpu" or x.dtype == torch.float32:
        return _turned(x, turns)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for target, heads in zip(out.view(-1, *x.shape[2:]).split(HEADS_AT_A_TIME),
                             x.flatten(0, 1).split(HEADS_AT_A_TIME), strict=True):
        target.copy_(_turned(heads, turns))  # few heads at a time, whose float32 values stay in the processor's cache
    return out


def normed_and_rotated(x: torch.Tensor, norm: torch.nn.LayerNorm, rotary: tuple[torch.Tensor, torch.Tensor]
                       ) -> torch.Tensor:
    """Return rotate(norm(x), rotary) as one expression of x (B, h, S, d), which the compiler makes one kernel of."""
    variance, mean = torch.var_mean(x.float(), dim=-1, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + norm.eps)[..., None]
    pairs = x.float().unflatten(-1, (-1, 2)) - mean[..., None]
    straight, swapped = pairs * scale, pairs.flip(-1) * scale
    if norm.weight is not None:
        weight, bias = (term.float().unflatten(-1, (-1, 2)) for term in (norm.weight, norm.bias))
        straight, swapped = straight * weight + bias, swapped * weight.flip(-1) + bias.flip(-1)
    return _rotated(straight, swapped, *rotary).to(x.dtype)


def _rotated(pairs: torch.Tensor, swapped: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return (pairs * cos[..., None] + swapped * torch.stack((-sin, sin), dim=-1)).flatten(-2)


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


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
