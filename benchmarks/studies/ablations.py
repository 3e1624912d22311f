"""Parts of the transformer that studies train beside the released ones."""
import torch
from torch import nn

from network.blocks import AdaLNMixin


class Twice(nn.Linear):
    """(B, 6 D) of the video's tokens, and the same again for those of the text."""

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(embedding).repeat(1, 2)


class SharedAdaLNMixin(AdaLNMixin):
    """Adaptive LayerNorm without experts: text and video tokens have one modulation."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), Twice(time_embed_dim, 6 * hidden_size)) for _ in range(num_layers))


class NoModulation(nn.Module):
    """Shift 0, scale 0 (on top of 1) and gate 1, whatever the embedding."""

    def __init__(self, hidden_size: int):
        super().__init__()
        terms = torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(hidden_size).repeat(4)
        self.register_buffer("terms", terms[None], persistent=False)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.terms.to(embedding.dtype)


class PlainLayerNormMixin(AdaLNMixin):
    """LayerNorm that no time modulates: the final layer alone is told the noise level."""

    def __init__(self, hidden_size: int, num_layers: int, time_embed_dim: int, **sizes):
        super().__init__(hidden_size, num_layers, time_embed_dim, **sizes)
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), NoModulation(hidden_size)) for _ in range(num_layers))

    def reinit(self, parent_model=None) -> None:
        """Nothing to close: every block counts from the start."""
