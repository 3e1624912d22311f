"""Noise levels and schedules, shared by denoisers, guiders and samplers: x = alpha * x0 + sigma * noise."""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sgm.parameterization import Parameterization


@dataclass(frozen=True)
class NoiseLevel:
    """A point of a schedule, as float64 numbers.

    `index` is its position among `num_steps` steps (fractional between two); `timestep` is the training timestep, None
    if the schedule has none.
    """

    alpha: float
    sigma: float
    timestep: float | None
    index: float
    num_steps: int
    parameterization: Parameterization

    @property
    def level(self) -> float:
        """The value passed to a denoiser: alphas_cumprod_sqrt (alpha) on a VP schedule, sigma on the others."""
        return self.parameterization.level(self.alpha, self.sigma)

    @property
    def ratio(self) -> float:
        """The ratio sigma / alpha, EDM's noise level (Karras et al. 2022); infinite at zero SNR."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def lamb(self) -> float:
        """Half the log-SNR, log(alpha / sigma) (DPM-Solver, Lu et al. 2022): -inf at zero SNR, inf when clean."""
        return -math.log(self.ratio) if self.ratio > 0 else math.inf

    @property
    def clean(self) -> bool:
        return self.sigma == 0


@dataclass(frozen=True)
class NoiseSchedule:
    """The n + 1 noise levels of n steps, from noise to clean (alpha 1, sigma 0); float64 tensors of shape (n + 1,).

    `timesteps` are training timesteps (0 at the clean end) or None. `timestep_at` returns the timestep of equal SNR for
    a ratio sigma / alpha between the steps.
    """

    alpha: torch.Tensor
    sigma: torch.Tensor
    timesteps: torch.Tensor | None
    parameterization: Parameterization
    timestep_at: Callable[[float], float] | None = None

    @property
    def num_steps(self) -> int:
        return len(self.alpha) - 1

    @property
    def level(self) -> torch.Tensor:
        return self.parameterization.level(self.alpha, self.sigma)

    def index_with_left(self, share: float) -> int:
        """Return the index of the level with `share` (0 to 1) of the steps, rounded down, left to the clean end."""
        return self.num_steps - int(self.num_steps * share + 1e-6)  # 0.29 * 100 is a little below 29

    def levels(self) -> list[NoiseLevel]:
        timesteps = [None] * len(self.alpha) if self.timesteps is None else self.timesteps.tolist()
        points = zip(self.alpha.tolist(), self.sigma.tolist(), timesteps, strict=True)
        return [self._level(a, s, t, i) for i, (a, s, t) in enumerate(points)]

    def at_ratio(self, ratio: float, index: float) -> NoiseLevel:
        """Return the level with this sigma / alpha, for solvers that evaluate between the steps."""
        timestep = None if self.timestep_at is None else self.timestep_at(ratio)
        return self._level(*self.parameterization.at_ratio(ratio), timestep, index)

    def _level(self, alpha: float, sigma: float, timestep: float | None, index: float) -> NoiseLevel:
        return NoiseLevel(alpha, sigma, timestep, index, self.num_steps, self.parameterization)
