"""What the transformer's hooks need to know about the batch at hand, and how a latent video becomes patches."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from common.patches import Grid
from network.attention import attention


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
