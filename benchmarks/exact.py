"""Problems with exact answers (Gaussian data, a finite set of clips) and the error of samplers on them.

The exact denoisers here stand in for a network and have no weights. They are called the same way,
`denoiser(x, level, cond, idx=None)`, on noise levels of any parameterization.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from common.tensors import append_dims
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.parameterization import VE, Parameterization
from sgm.sampling.base import Run, Sampler
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import BrownianPath, Noise, StandIn

SHAPE = (2, 3, 2, 2, 2)


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

    def __init__(self, parameterization: Parameterization, weight: float = 0.3, d: float = 0.2):
        self.parameterization, self.weight, self.d = parameterization, weight, d

    def __call__(self, x, level, cond, idx=None, **inputs):
        alpha, sigma = (append_dims(v.to(x), x.ndim) for v in self.parameterization.alpha_sigma(level))
        spread = sigma**2 + alpha**2 * self.d**2
        odds = math.log(self.weight / (1 - self.weight)) - 2 * alpha * x / spread  # of -1 against 1
        mean = 1 - 2 * odds.sigmoid()
        return mean + alpha * self.d**2 / spread * (x - alpha * mean)


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


def moments(sampler: Sampler, num_steps: int, mean: torch.Tensor, covariance: torch.Tensor
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean (C,) and covariance (C, C) of an unguided sampler's output on Gaussian data with the given
    moments, from a start with the exact moments of the schedule's first level.

    A step is linear in the latents and in the noise it draws. One batch therefore measures both: in each row a single
    element of the start or of one draw is 1 and all others are 0; in the first row all are 0.
    """
    schedule = sampler.schedule(num_steps)
    levels, size = schedule.levels(), len(mean)
    rows = 1 + size * (1 + count_draws(sampler, num_steps))
    x = torch.zeros(rows, 1, size, 1, 1, dtype=torch.float64)
    ones = iter(range(1, rows, size))

    def draw() -> torch.Tensor:
        first, noise = next(ones), torch.zeros_like(x)
        noise[first:first + size, 0, :, 0, 0] = torch.eye(size, dtype=torch.float64)
        return noise

    start_mean, start_covariance = marginal(levels[0], mean, covariance)
    x = torch.einsum("ij,btjhw->btihw", torch.linalg.cholesky(start_covariance), draw()) + start_mean.view(-1, 1, 1)
    x = _run(sampler, schedule, x, CorrelatedGaussian(schedule.parameterization, mean, covariance), StandIn(draw))
    x = x[:, 0, :, 0, 0]
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


def marginal(level: NoiseLevel, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean (C,) and covariance (C, C) at a noise level of data with the given moments."""
    return level.alpha * mean, level.alpha**2 * covariance + level.sigma**2 * torch.eye(len(mean), dtype=mean.dtype)


def bias(sampler: Sampler, num_steps: int, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return the differences (C + C^2,) of the samples' exact mean and covariance from those of the last level."""
    exact = marginal(sampler.schedule(num_steps).levels()[-1], mean, covariance)
    found = moments(sampler, num_steps, mean, covariance)
    return torch.cat([(one - other).flatten() for one, other in zip(found, exact, strict=True)])


def count_draws(sampler: Sampler, num_steps: int) -> int:
    """Return how often a run of a sampler draws noise after its start."""
    drawn, zero = [], torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)

    def draw() -> torch.Tensor:
        drawn.append(1)
        return zero

    _run(sampler, sampler.schedule(num_steps), zero, lambda x, level, cond, **inputs: x, StandIn(draw))
    return len(drawn)


def _run(sampler: Sampler, schedule: NoiseSchedule, x: torch.Tensor, denoiser, draw: Noise,
         cond: torch.Tensor | None = None) -> torch.Tensor:
    conditioning = Conditioning({} if cond is None else {"crossattn": cond})
    run, state = Run(schedule, Guided(denoiser, sampler.guider, conditioning, None, {}), draw), StepState()
    for now, then in pairwise(schedule.levels()):
        x, _, state = sampler.step(x, now, then, run, state)
    return x


@dataclass(frozen=True)
class RememberedPath(BrownianPath):
    """A Brownian path that keeps the values it has found, for runs whose levels are among each other's."""

    found: dict[int, torch.Tensor] = field(default_factory=dict, init=False)

    def _at(self, place: int) -> torch.Tensor:
        if place not in self.found:
            self.found[place] = super()._at(place)
        return self.found[place]


def path_differences(sampler: Sampler, steps: Sequence[int]) -> list[float]:
    """Return the root mean square differences between unguided runs on Gaussian data whose numbers of steps follow each
    other in `steps`, from the same start and with the same Brownian path.

    With doubled numbers of steps they fall with the strong order of the sampler.
    """
    noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path, outs = RememberedPath(noise, [0]), []
    denoiser, cond = Gaussian(sampler.discretization.parameterization), torch.zeros(1, 1, 1)
    for n in steps:
        schedule = sampler.schedule(n)
        first = schedule.levels()[0]
        outs.append(_run(sampler, schedule, noise * math.hypot(first.alpha, first.sigma), denoiser, path, cond))
    return [float((one - other).square().mean().sqrt()) for one, other in pairwise(outs)]
