"""Patches of a latent video: patch sizes, the grid they form, and conversion to tokens and back."""
import torch

from common.errors import ConfigError

Grid = tuple[int, int, int]


def parse_patch_size(patch_size: int | list[int] | tuple[int, ...]) -> Grid:
    """(t, h, w); a single number p means (1, p, p)."""
    sizes = (1, patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    if len(sizes) != 3 or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ConfigError(f"patch_size {patch_size!r} is neither a whole number nor three (time, height, width)")
    return sizes


def patch_grid(latents: torch.Tensor, patch_size: Grid) -> Grid:
    """Patches along (time, height, width) of latents (B, T, C, H, W); ConfigError when they do not come out even."""
    _, frames, _, height, width = latents.shape
    sizes = (frames, height, width)
    if any(size % patch for size, patch in zip(sizes, patch_size, strict=True)):
        nearest = tuple(max(round(s / p), 1) * p for s, p in zip(sizes, patch_size, strict=True))
        raise ConfigError(f"latent video of (frames, height, width) {sizes} is not a whole number of patches "
                          f"{patch_size}; the nearest that is: {nearest}")
    return tuple(size // patch for size, patch in zip(sizes, patch_size, strict=True))


def patchify(latents: torch.Tensor, patch_size: Grid) -> torch.Tensor:
    """(B, T, C, H, W) -> (B, t·h·w, C·pt·ph·pw): tokens in (t, h, w) order, each patch in (c, t, h, w) order."""
    batch, _, channels, _, _ = latents.shape
    (t, h, w), (pt, ph, pw) = patch_grid(latents, patch_size), patch_size
    patches = latents.reshape(batch, t, pt, channels, h, ph, w, pw).permute(0, 1, 4, 6, 3, 2, 5, 7)
    return patches.reshape(batch, t * h * w, channels * pt * ph * pw)


def unpatchify(tokens: torch.Tensor, grid: Grid, patch_size: Grid) -> torch.Tensor:
    """The inverse of `patchify`: (B, t·h·w, C·pt·ph·pw) -> (B, T, C, H, W)."""
    batch, _, width = tokens.shape
    (t, h, w), (pt, ph, pw) = grid, patch_size
    channels = width // (pt * ph * pw)
    patches = tokens.reshape(batch, t, h, w, channels, pt, ph, pw).permute(0, 1, 5, 4, 2, 6, 3, 7)
    return patches.reshape(batch, t * pt, channels, h * ph, w * pw)
