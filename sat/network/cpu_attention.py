"""Attention on a CPU in bfloat16: torch's fused kernel, or matrix products of pieces, whichever is faster here.

With AVX-512 bfloat16 the pieces take half the time of the fused kernel; with AMX they take several times as much. Which
of them to use is therefore measured once for each shape. Both are equal up to bfloat16 rounding.
"""
from functools import cache
from math import ceil

import torch
import torch.nn.functional as F

from common.cpu_operations import CPU_HAS_BFLOAT16
from common.measured import fastest, remembered

MOST_SCORES = 2**20  # of a thread's piece: they are read and written three times, and are to stay in its core's cache
FEWEST_TOKENS = 256  # with fewer of them, both ways take about the same time
MEASURED_QUERIES = 1024


@torch.library.custom_op("cogvideo::attention_on_cpu", mutates_args=())  # one operation for the compiler
def attention_on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return unmasked attention (B, Q, h, d) for bfloat16 queries (B, h, Q, d), keys and values (B, h, K, d)."""
    _, heads, queries, dim = q.shape
    if CPU_HAS_BFLOAT16 and queries >= FEWEST_TOKENS and pieces_are_faster(heads, queries, k.shape[2], dim):
        return in_pieces(q, k, v)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()


@attention_on_cpu.register_fake
def _shaped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.transpose(1, 2).shape)


def in_pieces(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the same attention from products of some heads' queries with all their keys, MOST_SCORES a thread."""
    (rows, heads, queries, dim), keys = q.shape, k.shape[2]
    out = q.new_empty(rows, queries, heads, dim)
    at_once = ceil(queries / ceil(queries * keys / MOST_SCORES))  # pieces of about equal length
    heads_at_once = max(1, MOST_SCORES * torch.get_num_threads() // (keys * at_once))  # each thread has its own heads
    for row in range(rows):
        for head in range(0, heads, heads_at_once):
            some = slice(head, head + heads_at_once)
            scaled, keys_transposed = q[row, some] * dim**-0.5, k[row, some].transpose(1, 2)
            for start in range(0, queries, at_once):
                piece = slice(start, start + at_once)
                scores = torch.bmm(scaled[:, piece], keys_transposed)
                attended = torch.bmm(torch.softmax(scores, dim=-1, out=scores), v[row, some])
                out[row, piece, some] = attended.transpose(0, 1)
    return out


@cache
def pieces_are_faster(heads: int, queries: int, keys: int, dim: int) -> bool:
    """Return True if `in_pieces` beats the fused kernel on this processor; measured once a shape, and remembered."""
    q, k, v = (torch.randn(1, heads, tokens, dim, generator=torch.Generator().manual_seed(0)).bfloat16()
               for tokens in (min(queries, MEASURED_QUERIES), keys, keys))
    ways = {"fused": lambda: F.scaled_dot_product_attention(q, k, v), "pieces": lambda: in_pieces(q, k, v)}
    return remembered(f"bfloat16 attention of {heads} heads of {dim}, {queries} x {keys} tokens",
                      lambda: fastest(ways)) == "pieces"
