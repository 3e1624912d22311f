"""Attention and rotary embedding as pure functions. Shapes: B batch, h heads, S tokens [text, video], d head dim."""
import torch
import torch.nn.functional as F

from common.tensors import recorded
from network.cpu_attention import attention_on_cpu

HEADS_AT_A_TIME = 4


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return unmasked attention, (B, S, h·d), for queries, keys and values of (B, h, S, d)."""
    if q.device.type == "cpu":  # the CPU kernel is an eighth faster when each head's tokens are contiguous
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not dropout and not torch.is_grad_enabled():
        return attention_on_cpu(q, k, v).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], turns: torch.Tensor | None = None
           ) -> torch.Tensor:
    """Rotate each pair (x0, x1) of the last axis by its angle: (x0 cos - x1 sin, x1 cos + x0 sin), in float32.

    x: (B, h, S, d); rotary: cosines and sines, (S, d / 2) each; turns: the same as complex numbers, if they are at
    hand. RoFormer (Su et al. 2021), equation 34, with neighbouring channels as pairs.
    """
    cos, sin = rotary
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic but not complex
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)
    turns = torch.complex(cos, sin) if turns is None else turns
    if recorded() or x.device.type != "cpu" or x.dtype == torch.float32:
        return _turned(x, turns)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for target, heads in zip(out.view(-1, *x.shape[2:]).split(HEADS_AT_A_TIME),
                             x.flatten(0, 1).split(HEADS_AT_A_TIME), strict=True):
        target.copy_(_turned(heads, turns))  # few heads at a time, whose float32 values stay in the processor's cache
    return out


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
