"""Noise levels by step: the EDM ramp, the DDPM table, and the SNR-shifted table with zero terminal SNR."""
import numpy as np
import torch

from errors import ConfigError
from sgm.noise_schedule import VE, VP, NoiseSchedule


class Discretization:
    """Levels from noise to clean; sigma on a VE schedule, alphas_cumprod_sqrt on a VP one (`parameterization`)."""

    parameterization = VE

    def levels(self, n: int) -> np.ndarray:
        """(n,) float64, the noisiest first."""
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
        levels = torch.tensor(self.levels(n).copy(), dtype=torch.float32, device=device)
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
        """n steps as n + 1 pairs (alpha, sigma) in float64; raises ConfigError where the levels are not monotone."""
        levels = torch.tensor(self.levels(n).copy(), dtype=torch.float64, device=device)
        falling = levels if self.parameterization == VE else -levels
        if bool((falling.diff() >= 0).any()):
            raise ConfigError(f"{type(self).__name__}: noise does not fall from step to step for {n} steps; "
                              "change its parameters")
        if self.parameterization == VE:
            alpha, sigma = torch.ones_like(levels), levels
        else:
            alpha, sigma = levels, (1 - levels**2).sqrt()
        timesteps = self.timesteps(n)
        if timesteps is not None:
            falling_steps = torch.tensor(timesteps[::-1].copy(), dtype=torch.float64, device=device)
            timesteps = torch.cat([falling_steps, falling_steps.new_zeros(1)])
        return NoiseSchedule(torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)]), timesteps,
                             self.parameterization, None if timesteps is None else self.timestep_at)


class EDMDiscretization(Discretization):
    """The rho ramp between sigma_max and sigma_min (Karras et al. 2022, eq. 5)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        if not 0 < sigma_min < sigma_max or rho <= 0:
            raise ConfigError(f"EDMDiscretization: needs 0 < sigma_min < sigma_max and rho > 0, "
                              f"not sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def levels(self, n: int) -> np.ndarray:
        if n < 1:
            raise ConfigError(f"num_steps: {n} is not a step count; use at least 1")
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (high + np.linspace(0, 1, n) * (low - high)) ** self.rho


class TableDiscretization(Discretization):
    """A subset of a table of training timesteps, linear in the square root of beta (DDPM, Ho et al. 2020)."""

    def __init__(self, linear_start: float, linear_end: float, num_timesteps: int):
        if not 0 < linear_start < linear_end < 1 or num_timesteps < 1:
            raise ConfigError(f"{type(self).__name__}: needs 0 < linear_start < linear_end < 1 and num_timesteps >= 1, "
                              f"not {linear_start}, {linear_end}, {num_timesteps}")
        self.num_timesteps = num_timesteps
        betas = np.linspace(linear_start**0.5, linear_end**0.5, num_timesteps) ** 2
        self.alphas_cumprod = np.cumprod(1 - betas)

    def timesteps(self, n: int) -> np.ndarray:
        if not 1 <= n <= self.num_timesteps:
            raise ConfigError(f"num_steps: {n} is not between 1 and {self.num_timesteps}, the timesteps of "
                              f"{type(self).__name__}")
        # Truncated exactly as numpy's linspace rounds: the released steps.
        return np.linspace(self.num_timesteps - 1, 0, n, endpoint=False).astype(np.int64)[::-1]

    def timestep_at(self, ratio: float) -> float:
        table = self.levels(self.num_timesteps)[::-1]  # index = timestep, noise rising
        if self.parameterization == VE:
            return float(np.interp(ratio, table, np.arange(len(table))))
        return float(np.interp(-1 / np.hypot(1, ratio), -table, np.arange(len(table))))


class LegacyDDPMDiscretization(TableDiscretization):
    """sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod) of the DDPM table, for VE samplers."""

    def __init__(self, linear_start: float = 0.00085, linear_end: float = 0.0120, num_timesteps: int = 1000):
        super().__init__(linear_start, linear_end, num_timesteps)

    def levels(self, n: int) -> np.ndarray:
        alphas_cumprod = self.alphas_cumprod[self.timesteps(n)][::-1]
        return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


class ZeroSNRDDPMDiscretization(TableDiscretization):
    """alphas_cumprod_sqrt, its SNR divided by `shift_scale` and its last entry brought to 0.

    Zero terminal SNR after Lin et al. 2024, algorithm 1, anchored on the chosen steps as the release does, so that
    levels depend slightly on n. `keep_start` shifts the first beta along, `post_shift` shifts after the rescaling.
    """

    parameterization = VP

    def __init__(self, linear_start: float = 0.00085, linear_end: float = 0.0120, num_timesteps: int = 1000,
                 shift_scale: float = 1.0, keep_start: bool = False, post_shift: bool = False):
        if shift_scale <= 0:
            raise ConfigError(f"ZeroSNRDDPMDiscretization: shift_scale {shift_scale} must be above 0")
        self.shift_scale, self.post_shift = shift_scale, post_shift
        if keep_start and not post_shift:
            linear_start = self._shift(linear_start)
        super().__init__(linear_start, linear_end, num_timesteps)
        if not post_shift:
            self.alphas_cumprod = self._shift(self.alphas_cumprod)

    def _shift(self, alphas_cumprod):
        return alphas_cumprod / (self.shift_scale + (1 - self.shift_scale) * alphas_cumprod)

    def levels(self, n: int) -> np.ndarray:
        root = self.alphas_cumprod[self.timesteps(n)] ** 0.5
        first, last = root[0], root[-1]
        root = np.zeros(1) if n == 1 else (root - last) * first / (first - last)
        if self.post_shift:
            root = self._shift(root**2) ** 0.5
        return root[::-1]
