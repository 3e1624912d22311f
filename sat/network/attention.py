"""Attention as a pure function. Shapes: B batch, h heads, S tokens [text, video], d head dim."""
import torch
import torch.nn.functional as F

from common.cpu_operations import product_dtype
from network.cpu_attention import attention_in_training, attention_on_cpu


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
