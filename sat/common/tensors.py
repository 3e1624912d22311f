"""Tensor helpers shared by several modules."""
from collections.abc import Sequence
from math import ceil

import torch

PLANNED_PIECES = 8
Generators = torch.Generator | Sequence[torch.Generator] | None


def recorded() -> bool:
    """Return True if results are kept for a gradient or traced by a compiler, so that nothing may be overwritten."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def piece_length(wanted: int, total: int, like: torch.Tensor) -> int:
    """Return the length of the pieces that `total` elements or tokens are computed in: `wanted`, which fits a cache.

    A tensor without values, as plans have, is computed in PLANNED_PIECES at most, since each takes the plan as long as
    the whole would.
    """
    return max(wanted, ceil(total / PLANNED_PIECES), 1) if like.is_meta else max(wanted, 1)


def append_dims(x: torch.Tensor, ndim: int) -> torch.Tensor:
    """Return x (B,) as (B, 1, ..., 1) of `ndim` dimensions, so that one number per row broadcasts over a batch."""
    if x.ndim > ndim:
        raise ValueError(f"a tensor of {x.ndim} dimensions cannot be extended to {ndim}")
    return x.reshape(*x.shape, *(1,) * (ndim - x.ndim))


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return x in float32, or in float64 if it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def row_rms(x: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each row: (B, ...) -> (B,)."""
    return x.flatten(1).square().mean(dim=1).sqrt()


def draw_noise(like: torch.Tensor, generator: Generators = None) -> torch.Tensor:
    """Return unit noise shaped like `like`, from torch's global state, one generator, or one generator per row.

    It does not depend on the order of `like` in memory.
    """
    if generator is None:
        return torch.randn(like.shape, dtype=like.dtype, device=like.device)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
        return noise.to(like.device)
    if len(generator) != len(like):
        raise ValueError(f"{len(generator)} generators for a batch of {len(like)}")
    return torch.stack([draw_noise(row, g) for row, g in zip(like, generator, strict=True)])
