"""What all discretizations share: a step count in, a schedule of noise levels out."""
import numpy as np
import torch

from common.errors import ConfigError
from sgm.noise_schedule import VE, VP, NoiseSchedule, alpha_sigma


class Discretization:
    """Levels from noise to clean: alphas_cumprod_sqrt where the `parameterization` is VP, else sigma (VE, flow)."""

    parameterization = VE

    def levels(self, n: int) -> np.ndarray:
        """(n,) float64 for n of at least 1, the noisiest first."""
        raise NotImplementedError

    def timesteps(self, n: int) -> np.ndarray | None:
        """(n,) training timesteps, ascending; None where the schedule has none."""
        return None

    def timestep_at(self, ratio: float) -> float:
        """The training timestep of equal SNR for sigma / alpha, interpolated on the whole table."""
        raise NotImplementedError

    def __call__(self, n: int, device: torch.device | str = "cpu", return_idx: bool = False,
                 do_append_zero: bool = True, flip: bool = False):
        """(n [+ 1],) float32 levels, the noisiest first unless `flip`; with `return_idx` also the ascending timesteps.

        Raises ConfigError for a step count that the table does not have.
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
        """n steps as n + 1 pairs (alpha, sigma) in float64; raises ConfigError for levels that cannot be."""
        levels = self._levels(n).to(device)
        alpha, sigma = alpha_sigma(levels, self.parameterization)
        falling = -levels if self.parameterization == VP else levels
        if not (falling.diff() < 0).all():
            raise ConfigError(f"{type(self).__name__}: noise does not fall from step to step for {n} steps; "
                              "change its parameters")
        if levels.shape != (n,) or not ((alpha >= 0) & (sigma > 0) & levels.isfinite()).all():
            raise ConfigError(f"{type(self).__name__}: {n} steps need {n} {self.parameterization} levels with alpha of "
                              "at least 0 and sigma above it; change its parameters")
        timesteps = self.timesteps(n)
        if timesteps is not None:
            falling_steps = torch.tensor(timesteps[::-1].copy(), dtype=torch.float64, device=device)
            timesteps = torch.cat([falling_steps, falling_steps.new_zeros(1)])
        return NoiseSchedule(torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)]), timesteps,
                             self.parameterization, None if timesteps is None else self.timestep_at)

    def _levels(self, n: int) -> torch.Tensor:
        if n < 1:
            raise ConfigError(f"num_steps: {n} is not a step count; use at least 1")
        return torch.tensor(self.levels(n).copy(), dtype=torch.float64)
