"""Variants of parts of the transformer, which studies train for comparison with the released ones."""
import torch
from torch import nn

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
