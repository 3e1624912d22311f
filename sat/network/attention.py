"""Attention and rotary embedding as pure functions. Shapes: B batch, h heads, S tokens [text, video], d head dim."""
import torch
import torch.nn.functional as F

from common.cpu_operations import CPU_HAS_BFLOAT16

# Queries per block where plain matrix products are used, so that a block's scores stay in the processor's cache.
QUERIES_PER_BLOCK = 256


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return unmasked attention, (B, S, h·d), for queries, keys and values of (B, h, S, d)."""
    if q.device.type == "cpu":  # the CPU kernel is an eighth faster when each head's tokens are contiguous
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    bfloat16_products = CPU_HAS_BFLOAT16 and q.device.type == "cpu" and q.dtype == torch.bfloat16
    if bfloat16_products and not dropout and not torch.is_grad_enabled():
        out = _attention_in_blocks(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)


def _attention_in_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # With bfloat16 instructions, about twice as fast as the fused CPU kernel; equal to it up to bfloat16 rounding.
    k_t, scale = k.transpose(2, 3), q.shape[-1] ** -0.5
    out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)
    for start in range(0, q.shape[2], QUERIES_PER_BLOCK):
        block = slice(start, start + QUERIES_PER_BLOCK)
        out[:, :, block] = torch.softmax(q[:, :, block] * scale @ k_t, dim=-1) @ v
    return out


def rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate each pair (x0, x1) of the last axis by its angle: (x0 cos - x1 sin, x1 cos + x0 sin), in float32.

    x: (B, h, S, d); rotary: cosines and sines, (S, d / 2) each. RoFormer (Su et al. 2021), equation 34, with
    neighbouring channels as pairs.
    """
    cos, sin = rotary
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic but not complex
        a, b = pairs.unbind(-1)
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)
