"""Variants of parts of the transformer, which studies train for comparison with the released ones."""
from dataclasses import replace
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import ConfigError
from common.patches import Grid
from network.attention import attention
from network.blocks import AdaLNMixin


class Twice(nn.Linear):
    """A linear layer whose output (B, 6 D), the modulation of video tokens, is repeated for text tokens: (B, 12 D)."""

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding).repeat(1, 2)


class SharedAdaLNMixin(AdaLNMixin):
    """Adaptive LayerNorm without experts: text and video tokens share one modulation."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), Twice(time_embed_dim, 6 * hidden_size)) for _ in range(num_layers))


class NoModulation(nn.Module):
    """A constant modulation: shift 0, scale 0 (added to 1) and gate 1, for every embedding."""

    def __init__(self, hidden_size: int):
        super().__init__()
        terms = torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(hidden_size).repeat(4)
        self.register_buffer("terms", terms[None], persistent=False)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.terms.to(embedding.dtype)


class PlainLayerNormMixin(AdaLNMixin):
    """LayerNorm without modulation by time: only the final layer knows the noise level."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), NoModulation(hidden_size)) for _ in range(num_layers))

    def reinit(self, parent_model=None) -> None:
        """Do nothing: there are no gates to close, so every block is active from the start."""


class DividedAttentionMixin(AdaLNMixin):
    """Attention divided into 2D and 1D, by turns from layer to layer, in place of 3D attention over the whole video.

    In layers 0, 2, ... a video token attends to the tokens of its frame, in the others to those of its place in all
    frames (the interleaved blocks of Latte, Ma et al. 2024, variant 1); in both also to the text. Text tokens attend to
    each other alone, so that frames learn of each other in the second kind of layer only. Weights are those of 3D
    attention. Raises ConfigError where tokens are divided among processes.
    """

    def attention_forward(self, hidden_states, mask, parts, context, **hook) -> torch.Tensor:
        if context.attend is not attention:
            raise ConfigError("DividedAttentionMixin needs whole sequences on a process; set "
                              "args.sequence_parallel_size to 1")
        seen = visible(context.text_length, context.grid, parts.layer_id % 2 == 0).to(hidden_states.device)
        divided = replace(context, attend=partial(attend_to, seen))
        return super().attention_forward(hidden_states, mask, parts, divided, **hook)


def attend_to(seen: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0
              ) -> torch.Tensor:
    """Return attention (B, S, h d) in which queries, the last S of all tokens, see the keys that `seen` says."""
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[-q.shape[2]:], dropout_p=dropout)
    return masked.transpose(1, 2).flatten(2)


@lru_cache(maxsize=8)
def visible(text_length: int, grid: Grid, in_space: bool) -> torch.Tensor:
    """Return (S, S), True where a token sees another: text sees text, video text and its frame, or its place."""
    frames, height, width = grid
    place = torch.arange(height * width).repeat(frames)
    frame = torch.arange(frames).repeat_interleave(height * width)
    own = frame if in_space else place
    seen = F.pad(own[:, None] == own[None], (text_length, 0, text_length, 0))
    seen[:, :text_length] = True
    return seen
