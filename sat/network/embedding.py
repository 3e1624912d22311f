"""Numbers to vectors: noise levels, the image-to-video offset `ofs`, labels."""
import math

import torch
from torch import nn

from common.errors import ConfigError


def timestep_embedding(timesteps: torch.Tensor, dim: int, max_period: float = 10000.0) -> torch.Tensor:
    """(n,) -> (n, dim) in float32: cosines, then sines, of timesteps / max_period^(2i / dim)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device).float())
    angles = timesteps.float().reshape(-1, 1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class SinusoidMLP(nn.Sequential):
    """Sinusoid of width `dim`, Linear, SiLU, Linear to `out_dim`; the linear layers are `0` and `2` in its state."""

    def __init__(self, dim: int, out_dim: int):
        if dim % 2:
            raise ConfigError(f"a sinusoid of {dim} channels has no halves for cosines and sines; take an even number")
        super().__init__(nn.Linear(dim, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))
        self.dim = dim

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) or () -> (n, out_dim)."""
        return super().forward(timestep_embedding(values, self.dim).to(self[0].weight.dtype))


class LabelLinear(nn.Linear):
    """Takes labels (B, n) of any dtype."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return super().forward(y.to(self.weight.dtype))


def label_embedding(num_classes: int | str, dim: int, out_dim: int, adm_in_channels: int | None) -> nn.Module:
    """The module that turns labels y into (B, out_dim), added to the time embedding.

    num_classes: how many labels, y (B,) of integers; "continuous", y (B, 1); "timestep", y (B,), through a sinusoid of
    width `dim`; "sequential", y (B, adm_in_channels).
    """
    if isinstance(num_classes, int):
        return nn.Embedding(num_classes, out_dim)
    if num_classes == "continuous":
        return LabelLinear(1, out_dim)
    if num_classes == "timestep":
        return nn.Sequential(nn.Identity(), SinusoidMLP(dim, out_dim))
    if num_classes == "sequential":
        if adm_in_channels is None:
            raise ConfigError("num_classes sequential: adm_in_channels, the width of the label vectors, is missing")
        return nn.Sequential(
            nn.Sequential(LabelLinear(adm_in_channels, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim)))
    raise ConfigError(f"num_classes {num_classes!r} is neither a number nor continuous, timestep or sequential")
