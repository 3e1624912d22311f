"""Embeddings of scalars as vectors: timesteps, the image-to-video offset `ofs`, and labels."""
import math

import torch
from torch import nn

from common.errors import ConfigError


def timestep_embedding(timesteps: torch.Tensor, dim: int, max_period: float = 10000.0) -> torch.Tensor:
    """Return cosines, then sines, of timesteps / max_period^(2i / dim): (n,) -> (n, dim), in float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device).float())
    angles = timesteps.float().reshape(-1, 1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class SinusoidMLP(nn.Sequential):
    """Sinusoidal embedding of width `dim`, then Linear, SiLU, Linear to `out_dim`.

    The linear layers are `0` and `2` in its state dict. Raises ConfigError if `dim` is odd.
    """

    def __init__(self, dim: int, out_dim: int):
        if dim % 2:
            raise ConfigError(f"a sinusoidal embedding of width {dim} is not possible; the width must be even")
        super().__init__(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))
        self.dim = dim

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the embedding (n, out_dim) of values (n,); one value, (), gives (1, out_dim)."""
        return super().forward(timestep_embedding(values, self.dim).to(next(self.parameters()).dtype))


class LabelLinear(nn.Linear):
    """A linear layer that accepts labels (B, n) of any dtype."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return super().forward(y.to(self.weight.dtype))


def label_embedding(num_classes: int | str, dim: int, out_dim: int, adm_in_channels: int | None) -> nn.Module:
    """Return the module that embeds labels y as (B, out_dim), to be added to the time embedding.

    num_classes: the number of labels, for integers y (B,); "continuous", for y (B, 1); "timestep", for y (B,) with a
    sinusoidal embedding of width `dim`; or "sequential", for y (B, adm_in_channels). Raises ConfigError for others.
    """
    if isinstance(num_classes, int):
        return nn.Embedding(num_classes, out_dim)
    if num_classes == "continuous":
        return LabelLinear(1, out_dim)
    if num_classes == "timestep":
        return nn.Sequential(nn.Identity(), SinusoidMLP(dim, out_dim))
    if num_classes == "sequential":
        if adm_in_channels is None:
            raise ConfigError("num_classes sequential needs adm_in_channels, the width of the label vectors")
        return nn.Sequential(
            nn.Sequential(LabelLinear(adm_in_channels, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim)))
    raise ConfigError(f"num_classes {num_classes!r} is neither a number nor continuous, timestep or sequential")
