"""The base class of discretizations, which make a schedule of noise levels for a step count."""
from abc import abstractmethod

import numpy as np
import torch

from common.errors import ConfigError
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import VE, Parameterization, named


class Discretization:
    """Base of the discretizations, whose levels are alphas_cumprod_sqrt if `parameterization` is VP, else sigma."""

    parameterization: Parameterization = VE

    def __init_subclass__(cls, **options):
        """Let a subclass name its parameterization."""
        super().__init_subclass__(**options)
        cls.parameterization = named(cls.parameterization)

    @abstractmethod
    def levels(self, n: int) -> np.ndarray:
        """Return n >= 1 levels (n,) in float64, noisiest first."""
        raise NotImplementedError

    def timesteps(self, n: int) -> np.ndarray | None:
        """Return the training timesteps (n,), ascending; None if the schedule has none."""
        return None

    def timestep_at(self, ratio: float) -> float:
        """Return the training timestep with this sigma / alpha, interpolated on the whole table."""
        raise NotImplementedError

    def __call__(self, n: int, device: torch.device | str = "cpu", return_idx: bool = False,
                 do_append_zero: bool = True, flip: bool = False):
        """Return float32 levels (n,), or (n + 1,) ending in 0 with `do_append_zero`; noisiest first unless `flip`.

        With `return_idx`, also return the ascending timesteps. Raises ConfigError for a step count that the table does
        not allow, ValueError if there are no timesteps to return.
        """
        levels = self._levels(n).to(device=device, dtype=torch.float32)
        if do_append_zero:
            levels = torch.cat([levels, levels.new_zeros(1)])
        levels = levels.flip(0) if flip else levels
        if not return_idx:
            return levels
        timesteps = self.timesteps(n)
        if timesteps is None:
            raise ValueError(f"{type(self).__name__} has no timesteps to return")
        return levels, torch.tensor(timesteps.copy())

    def schedule(self, n: int, device: torch.device | str = "cpu") -> NoiseSchedule:
        """Return the schedule of n steps: n + 1 pairs (alpha, sigma) in float64. Raises ConfigError if not valid."""
        levels = self._levels(n).to(device)
        alpha, sigma = self.parameterization.alpha_sigma(levels)
        if not (self.parameterization.rising(levels).diff() < 0).all():
            raise ConfigError(f"{type(self).__name__}: noise does not fall from step to step for {n} steps; "
                              "change its parameters")
        if levels.shape != (n,) or not ((alpha >= 0) & (sigma > 0) & levels.isfinite()).all():
            raise ConfigError(f"{type(self).__name__}: {n} steps need {n} {self.parameterization} levels with "
                              "alpha >= 0 and sigma > 0; change its parameters")
        ascending, timesteps = self.timesteps(n), None
        if ascending is not None:
            descending = torch.tensor(ascending[::-1].copy(), dtype=torch.float64, device=device)
            timesteps = torch.cat([descending, descending.new_zeros(1)])
        return NoiseSchedule(torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)]), timesteps,
                             self.parameterization, None if timesteps is None else self.timestep_at)

    def _levels(self, n: int) -> torch.Tensor:
        if n < 1:
            raise ConfigError(f"num_steps: {n} is too small; use at least 1")
        return torch.tensor(self.levels(n).copy(), dtype=torch.float64)
