"""Patches of a latent video: patch sizes, the grid they form, and conversion to tokens and back."""
from collections.abc import Sequence

import torch

from common.errors import ConfigError

Grid = tuple[int, int, int]


def parse_patch_size(patch_size: int | Sequence[int]) -> Grid:
    """Return the patch size as (t, h, w); one number p means (1, p, p). Raises ConfigError if invalid."""
    sizes = (1, patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(sizes) != 3 or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ConfigError(f"patch_size is {patch_size!r}; it must be one positive whole number, or three "
                          "(time, height, width)")
    return sizes[0], sizes[1], sizes[2]


def patch_grid(latents: torch.Tensor, patch_size: Grid) -> Grid:
    """Return how many patches latents (B, T, C, H, W) have along (time, height, width).

    Raises ConfigError if a size is not a multiple of the patch's.
    """
    _, frames, _, height, width = latents.shape
    sizes = (frames, height, width)
    if any(size % patch for size, patch in zip(sizes, patch_size, strict=True)):
        nearest = tuple(max(round(s / p), 1) * p for s, p in zip(sizes, patch_size, strict=True))
        raise ConfigError(f"latents of (frames, height, width) {sizes} do not divide into patches of {patch_size}; "
                          f"the nearest that do: {nearest}")
    pt, ph, pw = patch_size
    return frames // pt, height // ph, width // pw


def patchify(latents: torch.Tensor, patch_size: Grid) -> torch.Tensor:
    """Return the patches of latents (B, T, C, H, W) as (B, t·h·w, C·pt·ph·pw).

    Tokens are in (t, h, w) order, the elements of a patch in (c, t, h, w) order.
    """
    batch, _, channels, _, _ = latents.shape
    (t, h, w), (pt, ph, pw) = patch_grid(latents, patch_size), patch_size
    patches = latents.reshape(batch, t, pt, channels, h, ph, w, pw).permute(0, 1, 4, 6, 3, 2, 5, 7)
    return patches.reshape(batch, t * h * w, channels * pt * ph * pw)


def unpatchify(tokens: torch.Tensor, grid: Grid, patch_size: Grid) -> torch.Tensor:
    """Return latents (B, T, C, H, W) from patches (B, t·h·w, C·pt·ph·pw); the inverse of `patchify`."""
    batch, _, width = tokens.shape
    (t, h, w), (pt, ph, pw) = grid, patch_size
    channels = width // (pt * ph * pw)
    patches = tokens.reshape(batch, t, h, w, channels, pt, ph, pw).permute(0, 1, 5, 4, 2, 6, 3, 7)
    return patches.reshape(batch, t * pt, channels, h * ph, w * pw)
