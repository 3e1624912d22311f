"""Attention on a CPU in bfloat16: torch's fused kernel, or matrix products of pieces, whichever is faster here.

With AVX-512 bfloat16 the pieces take half the time of the fused kernel, in training too; with AMX they take several
times as much, and the kernel is faster if its keys fill whole tiles. Which way to use is therefore measured once for
each shape. All are equal up to bfloat16 rounding.
"""
from collections.abc import Callable, Iterator
from math import ceil

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from common.cpu_operations import CPU_HAS_BFLOAT16
from common.measured import fastest, once, remembered

MOST_SCORES = 2**20  # of a thread's piece: they are read and written three times, and are to stay in its core's cache
FEWEST_TOKENS = 256  # with fewer of them, both ways take about the same time
MEASURED_QUERIES = 1024
HEADS_AT_A_TIME = 4  # of a thread
TILE = 16  # keys; with a number that is no multiple of it the fused kernel can take twice the time

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.library.custom_op("cogvideo::attention_on_cpu", mutates_args=())  # one operation for the compiler
def attention_on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return unmasked attention (B, Q, h, d) for bfloat16 queries (B, h, Q, d), keys and values (B, h, K, d)."""
    return _way(q, k)(q, k, v).contiguous()


@attention_on_cpu.register_fake
def _shaped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.transpose(1, 2).shape)


def attention_in_training(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the same as `attention_on_cpu`, with gradients."""
    return _way(q, k, training=True)(q, k, v)


def _way(q: torch.Tensor, k: torch.Tensor, training: bool = False) -> Way:
    _, heads, queries, dim = q.shape
    if not CPU_HAS_BFLOAT16 or queries < FEWEST_TOKENS:
        return fused
    return ways(k.shape[2], training).get(fastest_way(heads, queries, k.shape[2], dim, training), fused)


def ways(keys: int, training: bool = False) -> dict[str, Way]:
    """Return the ways to compute attention to so many keys, by name; in training those with gradients."""
    if training:
        return {"fused": fused, "pieces": AttentionInPieces.apply}
    tiled: dict[str, Way] = {"tiles": in_tiles} if keys > TILE and keys % TILE else {}
    return {"fused": fused, **tiled, "pieces": in_pieces}


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the same attention from torch's fused kernel."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def in_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the same attention from torch's fused kernel for keys that fill whole tiles, and products for the rest."""
    out = q.new_empty(q.transpose(1, 2).shape)
    at_once = HEADS_AT_A_TIME * torch.get_num_threads()  # so that what they need beside the output stays small
    for row, row_out in enumerate(out):
        for heads in (slice(head, head + at_once) for head in range(0, q.shape[1], at_once)):
            _heads_in_tiles(q[row, heads], k[row, heads], v[row, heads], row_out[:, heads].transpose(0, 1))
    return out


def _heads_in_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
    """Write the attention of some heads, all (h, S, d), to `out`.

    The kernel returns an average weighted by exp(score), and the logarithm of the sum of its weights, with which the
    weights of the other keys are set beside it.
    """
    tiled = k.shape[1] // TILE * TILE
    of_tiled, log_sum = (x[0] for x in torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None, :, :tiled], v[None, :, :tiled]))
    scores = torch.bmm(q.float(), k[:, tiled:].float().transpose(1, 2)) * q.shape[-1]**-0.5
    greatest = torch.maximum(log_sum, scores.amax(-1))
    weight, weights = torch.exp(log_sum - greatest), torch.exp(scores - greatest[..., None])
    total = (weight + weights.sum(-1))[..., None]
    weight, weights = (weight[..., None] / total).to(q.dtype), (weights / total).to(q.dtype)
    torch.addcmul(torch.bmm(weights, v[:, tiled:]), of_tiled, weight, out=out)


def in_pieces(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the same attention from products of some heads' queries with all their keys, MOST_SCORES a thread."""
    rows, heads, queries, dim = q.shape
    out = q.new_empty(rows, queries, heads, dim)
    for row, some, pieces in _divided(q, k):
        scaled, keys_transposed = q[row, some] * dim**-0.5, k[row, some].transpose(1, 2)
        for piece in pieces:
            attended = torch.bmm(_probabilities(scaled[:, piece], keys_transposed), v[row, some])
            out[row, piece, some] = attended.transpose(0, 1)
    return out


class AttentionInPieces(torch.autograd.Function):
    """Attention in pieces and its gradients, for which the probabilities are computed again, piece by piece."""

    @staticmethod
    def forward(ctx, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        return in_pieces(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = ctx.saved_tensors
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        for row, some, pieces in _divided(q, k):
            of_heads = gradient[row, :, some].transpose(0, 1).contiguous()
            of_k[row, some], of_v[row, some] = _gradients_of_heads(
                q[row, some], k[row, some], v[row, some], of_heads, pieces, of_q[row, some])
        return of_q, of_k, of_v


def _gradients_of_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of_output: torch.Tensor,
                        pieces: list[slice], of_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the gradient of some heads' queries, all (h, S, d), into `of_q`; return those of keys and values.

    These are summed over pieces in float32.
    """
    scale = q.shape[-1] ** -0.5
    scaled, keys_transposed, values_transposed = q * scale, k.transpose(1, 2), v.transpose(1, 2)
    of_k, of_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
    for piece in pieces:
        probabilities = _probabilities(scaled[:, piece], keys_transposed)
        of_v += torch.bmm(probabilities.transpose(1, 2), of_output[:, piece])
        of_probabilities = torch.bmm(of_output[:, piece], values_transposed)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, q.dtype)
        of_q[:, piece] = torch.bmm(of_scores, k) * scale
        of_k += torch.bmm(of_scores.transpose(1, 2), scaled[:, piece])
    return of_k, of_v


def _divided(q: torch.Tensor, k: torch.Tensor) -> Iterator[tuple[int, slice, list[slice]]]:
    """Yield each row with some of its heads, and the pieces of queries, whose products are of a size for the caches."""
    (rows, heads, queries, _), keys = q.shape, k.shape[2]
    at_once = ceil(queries / ceil(queries * keys / MOST_SCORES))  # pieces of about equal length
    heads_at_once = max(1, MOST_SCORES * torch.get_num_threads() // (keys * at_once))  # each thread has its own heads
    pieces = [slice(start, start + at_once) for start in range(0, queries, at_once)]
    for row in range(rows):
        for head in range(0, heads, heads_at_once):
            yield row, slice(head, head + heads_at_once), pieces


def _probabilities(scaled: torch.Tensor, keys_transposed: torch.Tensor) -> torch.Tensor:
    scores = torch.bmm(scaled, keys_transposed)
    return torch.softmax(scores, dim=-1, out=scores)


@once
def fastest_way(heads: int, queries: int, keys: int, dim: int, training: bool = False) -> str:
    """Return the name of the way that is fastest on this processor; measured once a shape, and remembered.

    In training the time of the gradients counts, too.
    """
    def measure() -> str:
        drawn = torch.Generator().manual_seed(0)
        given = [torch.randn(1, heads, tokens, dim, generator=drawn).bfloat16().requires_grad_(training)
                 for tokens in (min(queries, MEASURED_QUERIES), keys, keys)]

        def passes(way: Way) -> Callable[[], object]:
            return (lambda: torch.autograd.grad(way(*given).sum(), given)) if training else (lambda: way(*given))

        with torch.set_grad_enabled(training):
            return fastest({name: passes(way) for name, way in ways(keys, training).items()})

    return remembered(f"way of bfloat16 attention{' in training' * training} of {heads} heads of {dim}, "
                      f"{queries} x {keys} tokens", measure)
