"""The posterior of a latent: a diagonal Gaussian given by its moments."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.tensors import draw_noise


@dataclass(frozen=True)
class DiagonalGaussian:
    """A Gaussian of mean and log-variance (B, z, t, h, w); `from_moments` clamps the log-variance to [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        if generator is None:
            noise = draw_noise(self.mean)
        else:
            noise = torch.randn(self.mean.shape, generator=generator, device=generator.device).to(self.mean)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """Return the KL divergence from the standard normal, summed over all axes but the batch: (B,)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1.0 - self.logvar).flatten(1).sum(1)


class DiagonalGaussianRegularizer(nn.Module):
    """A layer that turns moments into a latent: a draw from the posterior, or its mean if `sample` is off."""

    def __init__(self, sample: bool = True):
        super().__init__()
        self.sample = sample

    def forward(self, moments: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        posterior = DiagonalGaussian.from_moments(moments)
        return (posterior.sample(generator) if self.sample else posterior.mean), posterior
