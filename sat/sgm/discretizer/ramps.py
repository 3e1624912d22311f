"""Discretizations by formula, from a noisiest to a least noisy level; they have no timesteps and suit any network."""
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt, MinLen

from common.errors import ConfigError
from common.kinds import AboveZero, Unlimited
from sgm.discretizer.base import Discretization
from sgm.parameterization import FLOW, VP

# Align Your Steps (Sabour et al. 2024, table 3): the sigmas of 10 steps optimized for a model.
ALIGN_YOUR_STEPS = {
    "stable-diffusion-1.5": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "stable-video-diffusion": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


class EDMDiscretization(Discretization):
    """The rho ramp between sigma_max and sigma_min (Karras et al. 2022, eq. 5)."""

    def __init__(self, sigma_min: AboveZero = 0.002, sigma_max: AboveZero = 80.0, rho: AboveZero = 7.0):
        if not 0 < sigma_min < sigma_max or rho <= 0:
            raise ConfigError(f"EDMDiscretization: needs 0 < sigma_min < sigma_max and rho > 0, "
                              f"not sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def levels(self, n: int) -> np.ndarray:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (high + _ramp(n) * (low - high)) ** self.rho


class LogSNRDiscretization(Discretization):
    """Sigmas in equal steps of the log-SNR, -2 log(sigma) (DPM-Solver, Lu et al. 2022)."""

    def __init__(self, sigma_min: AboveZero = 0.002, sigma_max: AboveZero = 80.0):
        if not 0 < sigma_min < sigma_max:
            raise ConfigError("LogSNRDiscretization: needs 0 < sigma_min < sigma_max, "
                              f"not sigma_min {sigma_min}, sigma_max {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def levels(self, n: int) -> np.ndarray:
        return self.sigma_max * (self.sigma_min / self.sigma_max) ** _ramp(n)


class PolyexponentialDiscretization(Discretization):
    """Sigmas whose logarithm falls with the power `rho` of the steps that are left, as in k-diffusion.

    rho 1 is LogSNRDiscretization; above 1 the steps are wide at first and narrow at the end.
    """

    def __init__(self, sigma_min: AboveZero = 0.002, sigma_max: AboveZero = 80.0, rho: AboveZero = 1.0):
        if not 0 < sigma_min < sigma_max or rho <= 0:
            raise ConfigError("PolyexponentialDiscretization: needs 0 < sigma_min < sigma_max and rho > 0, "
                              f"not sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    def levels(self, n: int) -> np.ndarray:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** ((1 - _ramp(n)) ** self.rho)


class TabulatedDiscretization(Discretization):
    """A given list of sigmas, adapted to any step count by interpolating their logarithms (Sabour et al. 2024).

    `sigmas` must be positive and decreasing, without the clean end; or it names a table of Align Your Steps:
    stable-diffusion-1.5, sdxl or stable-video-diffusion.
    """

    def __init__(self, sigmas: Annotated[Sequence[AboveZero], MinLen(2)] | str):
        if isinstance(sigmas, str):
            if sigmas not in ALIGN_YOUR_STEPS:
                raise ConfigError(f"TabulatedDiscretization: sigmas {sigmas!r} is none of "
                                  f"{', '.join(ALIGN_YOUR_STEPS)}")
            sigmas = ALIGN_YOUR_STEPS[sigmas]
        self.sigmas = np.array(sigmas, dtype=np.float64)
        if self.sigmas.ndim != 1 or len(self.sigmas) < 2 or not (self.sigmas > 0).all() or (
                np.diff(self.sigmas) >= 0).any():
            raise ConfigError("TabulatedDiscretization: sigmas must be two or more positive numbers, each below the "
                              f"one before, not {list(sigmas)}")

    def levels(self, n: int) -> np.ndarray:
        places = np.linspace(0, 1, len(self.sigmas))
        return np.exp(np.interp(_ramp(n), places, np.log(self.sigmas)))


class RectifiedFlowDiscretization(Discretization):
    """Times of a rectified flow, x = (1 - s) x0 + s noise, in equal steps from 1 (Liu et al. 2023).

    `shift` moves them towards noise, s' = shift s / (1 + (shift - 1) s) (Esser et al. 2024, eq. 23). The last step
    goes from `sigma_min` to the clean end; if `sigma_min` is 0, all n steps are equal before the shift. An Euler step
    on this schedule is that of flow matching, x + (s' - s) velocity.
    """

    parameterization = FLOW

    def __init__(self, shift: AboveZero = 1.0, sigma_min: Annotated[float, Ge(0), Lt(1)] = 0.0):
        if shift <= 0 or not 0 <= sigma_min < 1:
            raise ConfigError("RectifiedFlowDiscretization: needs shift above 0 and sigma_min from 0 to below 1, "
                              f"not shift {shift}, sigma_min {sigma_min}")
        self.shift, self.sigma_min = shift, sigma_min

    def levels(self, n: int) -> np.ndarray:
        end = self.sigma_min / (self.shift - (self.shift - 1) * self.sigma_min)  # the time shifted to sigma_min
        s = 1 + _ramp(n) * (end - 1) if end > 0 else 1 - np.arange(n) / n
        return self.shift * s / (1 + (self.shift - 1) * s)


class VPRampDiscretization(Discretization):
    """VP levels from zero SNR, or from sigma_max, to a fixed sigma_min, both as sigma / alpha.

    They form a rho ramp (Karras et al. 2022, eq. 5) in rectified flow's time sigma / (alpha + sigma), which is finite
    at zero SNR. The last level of the released models' own schedule depends on the step count. Here it is fixed, and
    with it the error of the jump to the clean end, so that the rest converges with the solver's order. The default
    `sigma_min` is the least noise those models were trained at.
    """

    parameterization = VP

    def __init__(self, sigma_min: AboveZero = 0.0292, sigma_max: Unlimited = math.inf, rho: AboveZero = 2.0):
        if not 0 < sigma_min < sigma_max or rho <= 0:
            raise ConfigError("VPRampDiscretization: needs 0 < sigma_min < sigma_max and rho > 0, "
                              f"not sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
        self.first = 1.0 if math.isinf(sigma_max) else sigma_max / (1 + sigma_max)
        self.last, self.rho = sigma_min / (1 + sigma_min), rho

    def levels(self, n: int) -> np.ndarray:
        high, low = self.first ** (1 / self.rho), self.last ** (1 / self.rho)
        s = (high + _ramp(n) * (low - high)) ** self.rho
        return (1 - s) / np.hypot(1 - s, s)


def _ramp(n: int) -> np.ndarray:
    """Return n evenly spaced numbers from 0 to 1; only 0 for one step."""
    return np.linspace(0, 1, n)
