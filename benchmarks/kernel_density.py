"""A kernel density over clips in closed form, at every noise level: denoiser, log-density, and weights of its modes."""
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ALL = -1  # the group of every clip


@dataclass(frozen=True)
class KernelDensity:
    """A mixture of Gaussians of equal weight and deviation `bandwidth` around `clips` (N, T, C, h, w).

    `groups` (N,) numbers the caption of each clip. Methods take rows x (B, T, C, h, w) that are alpha times a draw plus
    sigma times noise, with alpha and sigma (B,), and the group (B,) that each row is conditional on, ALL for none.
    Everything is computed in float64, since distances in thousands of dimensions cancel.
    """

    clips: Tensor
    groups: Tensor
    bandwidth: float

    def denoised(self, x: Tensor, alpha: Tensor, sigma: Tensor, group: Tensor) -> Tensor:
        """Return E[x0 | x] in the dtype of x: the kernels' own estimates, by their posterior weights."""
        weights, clips, alpha = self.weights(x, alpha, sigma, group), self._flat.to(x.device), alpha.double()[:, None]
        share = alpha * self.bandwidth**2 / self._variance(alpha, sigma.double()[:, None])
        mean = weights @ clips
        return (mean + share * (x.double().flatten(1) - alpha * mean)).view_as(x).to(x.dtype)

    def weights(self, x: Tensor, alpha: Tensor, sigma: Tensor, group: Tensor) -> Tensor:
        """Return the posterior probability (B, N) of each clip, exactly 0 for those of other groups."""
        return self._logits(x, alpha, sigma, group).softmax(dim=1)

    def log_density(self, x: Tensor, alpha: Tensor, sigma: Tensor, group: Tensor) -> Tensor:
        """Return the logarithm of the density (B,) of x, in nats."""
        logits = self._logits(x, alpha, sigma, group)
        variance = self._variance(alpha.double(), sigma.double())
        count = torch.isfinite(logits).sum(1)
        return logits.logsumexp(dim=1) - count.log() - x[0].numel() / 2 * (2 * math.pi * variance).log()

    def draw(self, group: Tensor, generator: torch.Generator) -> Tensor:
        """Return exact draws (B, T, C, h, w) of the density of each row's group, in float64."""
        own = (self.groups[None] == group[:, None]) | (group[:, None] == ALL)
        chosen = torch.multinomial(own.double(), 1, generator=generator)[:, 0]
        clips = self.clips[chosen].double()
        return clips + self.bandwidth * torch.randn(clips.shape, generator=generator, dtype=torch.float64)

    def _logits(self, x: Tensor, alpha: Tensor, sigma: Tensor, group: Tensor) -> Tensor:
        """Return minus the squared distances (B, N) over twice the variance, -inf for clips of other groups."""
        rows, alpha = x.double().flatten(1), alpha.double()[:, None]
        apart = (rows.square().sum(1, keepdim=True) - 2 * alpha * (rows @ self._flat.to(x.device).T)
                 + alpha.square() * self._squares.to(x.device))
        other = (self.groups.to(x.device)[None] != group[:, None]) & (group[:, None] != ALL)
        return (-apart / (2 * self._variance(alpha, sigma.double()[:, None]))).masked_fill(other, -math.inf)

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma.square() + alpha.square() * self.bandwidth**2

    @cached_property
    def _flat(self) -> Tensor:
        return self.clips.double().flatten(1)

    @cached_property
    def _squares(self) -> Tensor:
        return self._flat.square().sum(1)
