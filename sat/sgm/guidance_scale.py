"""The guidance scale at each noise level: constant or varying over the run, within an interval of noise levels."""
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from common.errors import ConfigError
from common.kinds import NotNegative, Steps, Unlimited
from sgm.noise_schedule import NoiseLevel

Scale = float | torch.Tensor
ScheduleName = Literal["constant", "release", "decreasing", "increasing", "interval"]

# Bounds for SD-XL in Kynkaanniemi et al. 2024; the defaults of schedule interval.
INTERVAL = (0.28, 5.42)
EVERYWHERE = (0.0, math.inf)


def is_unguided(scale: Scale) -> bool:
    """Return True if this scale leaves the conditional estimate unchanged."""
    return not isinstance(scale, torch.Tensor) and scale == 1


@dataclass(kw_only=True)
class GuidanceScale:
    """The guidance scale by noise level; at scale 1 only the conditional branch is evaluated.

    `scale` 1 is no guidance with every schedule; it must be above 0, since 0 would leave the prompt out.

    Guidance acts where sigma_lo < sigma / alpha <= sigma_hi (guidance interval, Kynkaanniemi et al. 2024, eq. 5 and 6),
    by default everywhere; elsewhere the scale is 1. Inside the interval it is `scale` for schedule constant, else
    1 + scale * weight. For step i of n, counted from 1, and with c(p) = (1 - cos(pi p^exp)) / 2, the weight is

    - release: c(k / n), k = n - timestep, as in the release (k is negative, so that the weight jumps between steps);
    - increasing: c(i / n), close to 0 for most steps and rising late;
    - decreasing: 1 - c(i / n), close to 1 for most steps and falling late;
    - interval: 1, by default within the paper's bounds for SD-XL.

    n is the sampler's step count, or `num_steps` where a guider is called without a sampler. Raises ConfigError for
    invalid values.
    """

    SCHEDULES: ClassVar = get_args(ScheduleName)

    scale: float
    schedule: ScheduleName = "constant"
    exp: float = 5
    num_steps: Steps = 50
    sigma_lo: NotNegative | None = None
    sigma_hi: Unlimited | None = None

    def __post_init__(self):
        where = "guider_config.params"
        if self.scale <= 0:
            raise ConfigError(f"{where}.scale: {self.scale} must be above 0; 1 (--guidance-scale 1) is no guidance")
        if self.schedule == "release" and self.exp != int(self.exp):
            raise ConfigError(f"{where}.exp: {self.exp} must be a whole number with schedule release, "
                              "which takes powers of negative numbers; choose another schedule or exponent")
        if self.schedule in ("decreasing", "increasing") and self.exp <= 0:
            raise ConfigError(f"{where}.exp: {self.exp} must be above 0")
        low, high = INTERVAL if self.schedule == "interval" else EVERYWHERE
        self.sigma_lo = low if self.sigma_lo is None else self.sigma_lo
        self.sigma_hi = high if self.sigma_hi is None else self.sigma_hi
        if not 0 <= self.sigma_lo < self.sigma_hi:
            raise ConfigError(f"{where}: needs 0 <= sigma_lo < sigma_hi, not {self.sigma_lo} and {self.sigma_hi}")

    def needs_timestep(self) -> bool:
        """Return True if `scale_at` needs the training timestep of a noise level."""
        return self.schedule == "release"

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> Scale:
        """Return the scale at this level; `scale`, a number or one per row, replaces the configured one (1: none)."""
        low, high = self.sigma_lo, self.sigma_hi
        assert low is not None and high is not None  # set by __post_init__
        scale = self.scale if scale is None else scale
        if is_unguided(scale) or not low < noise.ratio <= high:
            return 1.0
        if self.schedule == "constant":
            return scale
        varied = 1 + scale * self._weight(noise)
        return torch.where(scale == 1, 1.0, varied) if isinstance(scale, torch.Tensor) else varied

    def _weight(self, noise: NoiseLevel) -> float:
        if self.schedule == "interval":
            return 1.0
        k = noise.index + 1
        if self.schedule == "release":
            if noise.timestep is None:
                raise ConfigError("guider_config: the schedule release needs timesteps, which neither the sampler's "
                                  "discretization nor the denoiser has; choose another schedule")
            k = noise.num_steps - noise.timestep
        rising = (1 - math.cos(math.pi * (k / noise.num_steps) ** self.exp)) / 2
        return 1 - rising if self.schedule == "decreasing" else rising
