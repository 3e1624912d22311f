"""The context that every transformer hook receives."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from common.patches import Grid
from network.attention import attention
from network.rotation import RotatedNorm, has_complex, rotate


@dataclass(frozen=True)
class VideoContext:
    """The batch at hand, given to every hook as the keyword argument `context`.

    latents: (B, T, C, H, W), with image latents already concatenated along the channels.
    text: (B, N, text width), or (1, N, text width).
    embedding: SiLU of the time embedding (with `ofs` and label added), (B, E), or (1, E) if all rows are equal.
    grid: patches along time, height and width.
    rotary: cosines and sines for the tokens [text, video], (N + t·h·w, head dim / 2) each; None: no rotation.
    identity_attention, skip_attention, skip_layers: indices of the layers in which every token attends to itself alone,
    which leave out their attention, and which are left out whole.
    attend: `attention.attention`, or its replacement where tokens are divided among processes.
    time: the time embedding before its SiLU, (B, E) or (1, E); what a step cache may measure.
    """
    latents: torch.Tensor
    text: torch.Tensor
    embedding: torch.Tensor
    grid: Grid
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    identity_attention: tuple[int, ...] = ()
    skip_attention: tuple[int, ...] = ()
    skip_layers: tuple[int, ...] = ()
    attend: Callable[..., torch.Tensor] = attention
    time: torch.Tensor | None = None

    @property
    def text_length(self) -> int:
        return self.text.shape[1]

    @cached_property
    def turns(self) -> torch.Tensor | None:
        """The rotations of rotary positions as complex numbers (N + t·h·w, head dim / 2), made once for all layers.

        None where the device has none.
        """
        assert self.rotary is not None
        return torch.complex(*self.rotary) if has_complex(self.rotary[0].device) else None

    def positioned(self, x: torch.Tensor, norm: RotatedNorm | None, first: int = 0) -> torch.Tensor:
        """Return queries or keys (B, h, S, d) of the tokens from `first` on, normalised and rotated by positions."""
        if self.rotary is None:
            return x if norm is None else norm(x)
        turns = None if torch.compiler.is_compiling() else self.turns
        by = (self.rotary[0][first:], self.rotary[1][first:]), None if turns is None else turns[first:]
        return rotate(x, *by) if norm is None else norm(x, *by)

    def rows(self, chosen: Sequence[int]) -> "VideoContext":
        """Return the context of these rows of the batch."""
        latents, text, embedding = (x if len(x) == 1 else x[chosen] for x in (self.latents, self.text, self.embedding))
        return replace(self, latents=latents, text=text, embedding=embedding)
