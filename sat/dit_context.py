"""What the transformer's hooks need to know about the batch at hand, and how a latent video becomes patches."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from dit_attention import attention
from errors import ConfigError

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class VideoContext:
    """Handed through SwissArmyTransformer's keyword arguments to every hook, instead of a dozen loose keys.

    latents: (B, T, C, H, W), image latents already joined on the channels.
    text: (B, N, text width), or (1, N, text width).
    embedding: SiLU of the time embedding (with `ofs` and label added), (B, E), or (1, E) when rows agree.
    grid: patches along time, height and width.
    rotary: cosines and sines for the tokens [text, video], (N + t·h·w, head dim / 2) each; None without rotation.
    identity_attention: numbers of the layers in which every token attends to itself alone.
    run: takes tokens (B, S, D) and this context to (B, t·h·w, D) in place of running all layers, see step_cache.
    attend: `dit_attention.attention`, or what stands for it where tokens are divided among processes.
    """
    latents: torch.Tensor
    text: torch.Tensor
    embedding: torch.Tensor
    grid: Grid
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    identity_attention: tuple[int, ...] = ()
    run: Callable[[torch.Tensor, "VideoContext"], torch.Tensor] | None = None
    attend: Callable[..., torch.Tensor] = attention

    @property
    def text_length(self) -> int:
        return self.text.shape[1]

    def rows(self, chosen: Sequence[int]) -> "VideoContext":
        """For these rows of the batch alone."""
        latents, text, embedding = (x if len(x) == 1 else x[chosen] for x in (self.latents, self.text, self.embedding))
        return replace(self, latents=latents, text=text, embedding=embedding)


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
