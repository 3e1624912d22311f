"""Discretizations from a table of training timesteps: DDPM's, and the SNR-shifted one with zero terminal SNR."""
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Lt

from common.errors import ConfigError
from common.kinds import AboveZero, Size
from sgm.discretizer.base import Discretization
from sgm.parameterization import VP

RELEASED: Literal["released"] = "released"
Spacing = Literal["released", "trailing", "leading", "linspace"]
Beta = Annotated[float, Gt(0), Lt(1)]
# First and last beta of DDPM's table (Ho et al. 2020) and of latent diffusion's (Rombach et al. 2022).
BETA_ENDS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.0120)}


def spaced(spacing: str, n: int, num_timesteps: int) -> np.ndarray:
    """Return n of the timesteps, (n,) int64 in ascending order (Lin et al. 2024, table 2).

    `leading` includes timestep 0, `trailing` and `released` the last one, `linspace` both.
    """
    if spacing == "trailing":
        return np.round(num_timesteps - np.arange(n) * num_timesteps / n).astype(np.int64)[::-1] - 1
    if spacing == "leading":
        return np.arange(n) * (num_timesteps // n)
    if spacing == "linspace":
        return np.round(np.linspace(num_timesteps - 1, 0, n)).astype(np.int64)[::-1]
    # The release truncates the values of numpy's linspace; another formula could round differently.
    return np.linspace(num_timesteps - 1, 0, n, endpoint=False).astype(np.int64)[::-1]


class TableDiscretization(Discretization):
    """A subset of a table of training timesteps, by default linear in the square root of beta (DDPM, Ho et al. 2020).

    `spacing` chooses the subset: released, trailing, leading or linspace. linspace ends at the table's least noise
    for any step count, so that the jump from there to the clean end does not hide a solver's order.
    """

    def __init__(self, linear_start: Beta, linear_end: Beta, num_timesteps: Size,
                 spacing: Spacing = RELEASED, beta_schedule: str = "scaled_linear"):
        if not 0 < linear_start < linear_end < 1:
            raise ConfigError(f"{type(self).__name__}: needs 0 < linear_start < linear_end < 1, not {linear_start}, "
                              f"{linear_end}")
        self.num_timesteps, self.spacing = num_timesteps, spacing
        power = 2 if beta_schedule == "scaled_linear" else 1
        betas = np.linspace(linear_start**(1 / power), linear_end**(1 / power), num_timesteps) ** power
        self.alphas_cumprod = np.cumprod(1 - betas)

    def timesteps(self, n: int) -> np.ndarray | None:
        return self.chosen(n)

    def chosen(self, n: int) -> np.ndarray:
        """Return n timesteps of the table (n,), ascending. Raises ConfigError if it has fewer, or if n is below 1."""
        if not 1 <= n <= self.num_timesteps:
            raise ConfigError(f"num_steps: {n} is not between 1 and {self.num_timesteps}, the timesteps of "
                              f"{type(self).__name__}")
        return spaced(self.spacing, n, self.num_timesteps)

    def timestep_at(self, ratio: float) -> float:
        level = self.parameterization.level(*self.parameterization.at_ratio(ratio))
        return float(np.interp(self.parameterization.rising(level), self._rising, np.arange(self.num_timesteps)))

    @cached_property
    def _rising(self) -> np.ndarray:
        """The whole table by timestep, as numbers that rise with the noise."""
        return self.parameterization.rising(self.levels(self.num_timesteps)[::-1])


class LegacyDDPMDiscretization(TableDiscretization):
    """The sigmas sqrt((1 - alphas_cumprod) / alphas_cumprod) of the DDPM table, for VE samplers."""

    def __init__(self, linear_start: Beta = 0.00085, linear_end: Beta = 0.0120, num_timesteps: Size = 1000,
                 spacing: Spacing = RELEASED):
        super().__init__(linear_start, linear_end, num_timesteps, spacing)

    def levels(self, n: int) -> np.ndarray:
        alphas_cumprod = self.alphas_cumprod[self.chosen(n)][::-1]
        return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


class ZeroSNRDDPMDiscretization(TableDiscretization):
    """The DDPM table's alphas_cumprod_sqrt with the SNR divided by `shift_scale` and zero terminal SNR.

    The rescaling to zero terminal SNR is that of Lin et al. 2024, algorithm 1. With `spacing` released, it uses the
    first and last of the chosen steps, as the release does, so that levels depend slightly on n; otherwise those of
    the whole table. `keep_start` also shifts the first beta, `post_shift` shifts after the rescaling.
    """

    parameterization = VP

    def __init__(self, linear_start: Beta = 0.00085, linear_end: Beta = 0.0120, num_timesteps: Size = 1000,
                 shift_scale: AboveZero = 1.0, keep_start: bool = False, post_shift: bool = False,
                 spacing: Spacing = RELEASED):
        self.shift_scale, self.post_shift = shift_scale, post_shift
        if keep_start and not post_shift:
            linear_start = self._shift(linear_start)
        super().__init__(linear_start, linear_end, num_timesteps, spacing)
        if not post_shift:
            self.alphas_cumprod = self._shift(self.alphas_cumprod)

    def _shift(self, alphas_cumprod):
        return alphas_cumprod / (self.shift_scale + (1 - self.shift_scale) * alphas_cumprod)

    def levels(self, n: int) -> np.ndarray:
        chosen, root = self.chosen(n), self.alphas_cumprod**0.5
        first, last = root[chosen[[0, -1]]] if self.spacing == RELEASED else root[[0, -1]]
        alone = n == 1 and self.spacing == RELEASED  # the step is first and last at once
        root = np.zeros(1) if alone else (root[chosen] - last) * first / (first - last)
        if self.post_shift:
            root = self._shift(root**2) ** 0.5
        return root[::-1]


class VPDiscretization(TableDiscretization):
    """The unchanged alphas_cumprod_sqrt of a DDPM table, without zero terminal SNR.

    `beta_schedule`: linear (Ho et al. 2020), scaled_linear (in the square root; Rombach et al. 2022) or cosine
    (Nichol and Dhariwal 2021, eq. 17). `linear_start` and `linear_end` are the first and last beta of the first two;
    None stands for their papers' values. `timesteps` returns None, so that a network trained on another table is
    evaluated at its own timestep of equal SNR.
    """

    parameterization = VP

    def __init__(self, beta_schedule: Literal["linear", "scaled_linear", "cosine"] = "scaled_linear",
                 linear_start: Beta | None = None, linear_end: Beta | None = None, num_timesteps: Size = 1000,
                 spacing: Spacing = "trailing"):
        cosine = beta_schedule == "cosine"
        if cosine and (linear_start, linear_end) != (None, None):
            raise ConfigError("VPDiscretization: the cosine schedule has no linear_start and linear_end; leave them "
                              "out")
        start, end = BETA_ENDS["linear" if cosine else beta_schedule]
        super().__init__(start if linear_start is None else linear_start, end if linear_end is None else linear_end,
                         num_timesteps, spacing, beta_schedule)
        if cosine:
            self.alphas_cumprod = _cosine(num_timesteps)

    def timesteps(self, n: int) -> None:
        return None

    def levels(self, n: int) -> np.ndarray:
        return self.alphas_cumprod[self.chosen(n)][::-1] ** 0.5


def _cosine(num_timesteps: int, offset: float = 0.008, greatest_beta: float = 0.999) -> np.ndarray:
    t = np.arange(num_timesteps + 1) / num_timesteps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], greatest_beta))
