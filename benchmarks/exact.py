"""Problems with exact answers (Gaussian data, a finite set of clips) and the error of samplers on them.

The exact denoisers here stand in for a network and have no weights. They are called the same way,
`denoiser(x, level, cond, idx=None)`, on noise levels of any parameterization.
"""
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from common.tensors import append_dims
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.parameterization import VE, Parameterization
from sgm.sampling.base import Sampler

SHAPE = (2, 3, 2, 2, 2)
HALVINGS = 64


class Gaussian:
    """The exact denoiser E[x0 | x] of Gaussian data with standard deviation d and the mean of cond["crossattn"].

    `calls` counts its forward passes and `rows` its network evaluations.
    """

    def __init__(self, parameterization: Parameterization = VE, d: float = 0.5):
        self.parameterization, self.d = parameterization, d
        self.calls, self.rows = 0, 0

    def __call__(self, x, level, cond, idx=None, **inputs):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        mean = append_dims(cond["crossattn"].mean(dim=(1, 2)).to(x), x.ndim)
        alpha, sigma = (append_dims(v, x.ndim) for v in self.parameterization.alpha_sigma(level))
        return mean + alpha * self.d**2 / (sigma**2 + alpha**2 * self.d**2) * (x - alpha * mean)

    def flow(self, x: torch.Tensor, start: NoiseLevel, end: NoiseLevel, mean: float = 0.0) -> torch.Tensor:
        """Return the exact solution of the probability-flow ODE at `end` that is x at `start`."""
        spread = [math.hypot(level.sigma, level.alpha * self.d) for level in (start, end)]
        return end.alpha * mean + (x - start.alpha * mean) * spread[1] / spread[0]


class CorrelatedGaussian:
    """The exact denoiser E[x0 | x] of Gaussian data with channel mean (C,) and covariance (C, C)."""

    def __init__(self, parameterization: Parameterization, mean: torch.Tensor, covariance: torch.Tensor):
        self.parameterization, self.mean = parameterization, mean.view(-1, 1, 1)
        self.variances, self.directions = torch.linalg.eigh(covariance)

    def __call__(self, x, level, cond, idx=None, **inputs):
        alpha, sigma = (v[:, None] for v in self.parameterization.alpha_sigma(level))
        share = alpha * self.variances / (sigma**2 + alpha**2 * self.variances)
        apart = x - append_dims(alpha[:, 0], x.ndim) * self.mean
        along = torch.einsum("cv,btchw->btvhw", self.directions, apart) * share[:, None, :, None, None]
        return self.mean + torch.einsum("cv,btvhw->btchw", self.directions, along)

    def flow(self, x: torch.Tensor, start: NoiseLevel, end: NoiseLevel) -> torch.Tensor:
        """Return the exact solution of the probability-flow ODE at `end` that is x at `start`."""
        spread = [(level.sigma**2 + level.alpha**2 * self.variances).sqrt() for level in (start, end)]
        along = torch.einsum("cv,btchw->btvhw", self.directions, x - start.alpha * self.mean)
        along = along * (spread[1] / spread[0])[:, None, None]
        return end.alpha * self.mean + torch.einsum("cv,btvhw->btchw", self.directions, along)


class FiniteData:
    """The exact denoiser E[x0 | x] of data that is one of `clips` (N, T, C, H, W), all equally likely.

    The estimate is the softmax-weighted mean of the clips. A row with positive cond["crossattn"] has only the first
    half of the clips as its data, one with negative only the second half, one with 0 all of them.
    """

    def __init__(self, parameterization: Parameterization, clips: torch.Tensor):
        self.parameterization, self.clips = parameterization, clips

    def __call__(self, x, level, cond, idx=None, **inputs):
        clips = self.clips.to(x).flatten(1)
        alpha, sigma = (v.to(x)[:, None] for v in self.parameterization.alpha_sigma(level))
        apart = (x.flatten(1)[:, None] - alpha[..., None] * clips).square().sum(-1)
        side = torch.where(torch.arange(len(clips)) < len(clips) / 2, 1.0, -1.0)
        asked = cond["crossattn"].mean(dim=(1, 2)).sign()[:, None]
        logits = (-apart / (2 * sigma**2)).masked_fill(side * asked < 0, -math.inf)
        return (logits.softmax(dim=1) @ clips).view_as(x)


class Mixture:
    """The exact denoiser E[x0 | x] of independent elements that are near -1 with probability `weight`, else near 1.

    Each of the two components is Gaussian with standard deviation d.
    """

    FARTHEST: ClassVar[float] = 20.0  # deviations of the whole, within which the flow's end is looked for

    def __init__(self, parameterization: Parameterization, weight: float = 0.3, d: float = 0.2):
        self.parameterization, self.weight, self.d = parameterization, weight, d

    def __call__(self, x, level, cond, idx=None, **inputs):
        alpha, sigma = (append_dims(v.to(x), x.ndim) for v in self.parameterization.alpha_sigma(level))
        spread = sigma**2 + alpha**2 * self.d**2
        odds = math.log(self.weight / (1 - self.weight)) - 2 * alpha * x / spread  # of -1 against 1
        mean = 1 - 2 * odds.sigmoid()
        return mean + alpha * self.d**2 / spread * (x - alpha * mean)

    def flow(self, x: torch.Tensor, start: NoiseLevel, end: NoiseLevel) -> torch.Tensor:
        """Return the exact solution of the probability-flow ODE at `end` that is x at `start`.

        The flow keeps the share of the distribution below an element, which halving an interval inverts.
        """
        share = self._logit_below(x, start)
        low = torch.full_like(x, -self.FARTHEST * math.hypot(end.alpha, end.sigma))
        high = -low
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = self._logit_below(middle, end) < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def share_below(self, x: float) -> float:
        """Return the share of the data below x."""
        apart = torch.tensor([x + 1, x - 1], dtype=torch.float64) / self.d
        return float((torch.tensor([self.weight, 1 - self.weight]) * torch.special.ndtr(apart)).sum())

    def _logit_below(self, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        """Return log(F / (1 - F)) of the distribution function F at a level."""
        spread = math.hypot(level.sigma, level.alpha * self.d)
        weights = x.new_tensor([self.weight, 1 - self.weight]).log()
        apart = torch.stack([x + level.alpha, x - level.alpha], dim=-1) / spread
        below, above = (torch.logsumexp(weights + torch.special.log_ndtr(sign * apart), dim=-1) for sign in (1, -1))
        return below - above


class WithoutLastJump:
    """A discretization without its last step, from the lowest noise level to the clean end, which is only of first
    order."""

    def __init__(self, discretization):
        self.discretization, self.parameterization = discretization, discretization.parameterization

    def schedule(self, n: int, device: str = "cpu") -> NoiseSchedule:
        whole = self.discretization.schedule(n + 1, device)
        return NoiseSchedule(whole.alpha[:-1], whole.sigma[:-1], None, self.parameterization)


def flow_error(sampler: Sampler, num_steps: int, d: float = 0.5) -> float:
    """Return the distance of an unguided run on Gaussian data from the end of the exact probability flow."""
    return solve_flow(sampler, num_steps, d)[0]


def solve_flow(sampler: Sampler, num_steps: int, d: float = 0.5) -> tuple[float, int]:
    """Return `flow_error` and the number of forward passes."""
    denoiser = Gaussian(sampler.discretization.parameterization, d)
    levels = sampler.schedule(num_steps).levels()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = noise * math.hypot(levels[0].alpha, levels[0].sigma)
    out = sampler(denoiser, noise, {"crossattn": torch.zeros(len(noise), 1, 1)}, num_steps=num_steps)
    return float((out - denoiser.flow(start, levels[0], levels[-1])).norm()), denoiser.calls


def measured_order(sampler: Sampler, steps: Sequence[int], d: float = 0.5) -> float:
    """Return the measured order of convergence: minus the fitted slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log([flow_error(sampler, n, d) for n in steps]), 1)[0])
