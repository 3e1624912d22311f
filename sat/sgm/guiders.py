"""Guidance: how the conditional and the unconditional estimate combine, and how strongly at each noise level.

`scale_at` says the scale of a step; 1 means conditional alone, so that its unconditional pass is skipped.
"""
import math
from collections.abc import Mapping

import torch

from errors import ConfigError
from sgm.noise_schedule import NoiseLevel
from sgm.util import instantiate_from_config

Scale = float | torch.Tensor
Conditioning = Mapping[str, torch.Tensor]

SCHEDULES = ("release", "decreasing", "increasing", "interval")
NO_THRESHOLDING = {"target": "sgm.sampling_utils.NoDynamicThresholding"}


def is_unguided(scale: Scale) -> bool:
    """Whether this scale leaves the conditional estimate alone."""
    return not isinstance(scale, torch.Tensor) and scale == 1


class VanillaCFG:
    """Classifier-free guidance at one scale (Ho and Salimans 2022): uncond + scale * (cond - uncond)."""

    def __init__(self, scale: float, dyn_thresh_config: Mapping | None = None):
        self.scale = scale
        self.dyn_thresh = instantiate_from_config(dyn_thresh_config or NO_THRESHOLDING)

    def needs_timestep(self) -> bool:
        """Whether `scale_at` reads the training timestep of a noise level."""
        return False

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> Scale:
        """The guidance scale at this noise level; `scale` (a number, or one per row) replaces the configured one."""
        return self.scale if scale is None else scale

    def combine(self, pair: torch.Tensor, scale: Scale) -> torch.Tensor:
        """(2B, ...) estimates, unconditional rows first -> (B, ...) guided ones."""
        uncond, cond = pair.chunk(2)
        return self.dyn_thresh(uncond, cond, scale)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        """Guide a doubled batch `x` (2B, ...), unconditional rows first, at the configured or the given scale."""
        return self.combine(x, self.scale if scale is None else scale)

    def prepare_inputs(self, x: torch.Tensor, level: torch.Tensor, cond: Conditioning, uc: Conditioning):
        """Double x, level and conditioning for one network call, unconditional rows first."""
        if cond.keys() != uc.keys():
            raise ValueError(f"conditional inputs {sorted(cond)} and unconditional ones {sorted(uc)} differ")
        return torch.cat([x, x]), torch.cat([level, level]), {k: torch.cat([uc[k], cond[k]]) for k in cond}


class IdentityGuider:
    """No guidance: the conditional estimate alone."""

    def needs_timestep(self) -> bool:
        return False

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> float:
        return 1.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        return x

    def prepare_inputs(self, x: torch.Tensor, level: torch.Tensor, cond: Conditioning, uc: Conditioning):
        return x, level, dict(cond)


class DynamicCFG(VanillaCFG):
    """Guidance whose scale moves between 1 and 1 + `scale` over the run: 1 + scale * weight.

    With n steps, step i counted from 1 and c(p) = (1 - cos(pi p^exp)) / 2 the weight is, by `schedule`:

    - release: c(k / n), k = n - timestep (negative, so that it jumps from step to step), as the release runs it;
    - increasing: c(i / n), close to 0 for most steps and rising late;
    - decreasing: 1 - c(i / n), close to 1 for most steps and falling late;
    - interval: 1 where sigma_lo < sigma / alpha <= sigma_hi, else 0 (Kynkaanniemi et al. 2024).

    n is the sampler's step count; `num_steps` stands in for it where the guider is called on its own. A per-call scale
    replaces `scale`; exactly 1 switches guidance off. `sigma_lo` and `sigma_hi` default to that paper's best for SD-XL.
    """

    def __init__(self, scale: float, exp: float = 5, num_steps: int = 50, dyn_thresh_config: Mapping | None = None,
                 schedule: str = "release", sigma_lo: float = 0.28, sigma_hi: float = 5.42):
        super().__init__(scale, dyn_thresh_config)
        if schedule not in SCHEDULES:
            raise ConfigError(f"guider_config.params.schedule: {schedule!r} is none of {', '.join(SCHEDULES)}")
        if schedule == "release" and exp != int(exp):
            raise ConfigError(f"guider_config.params.exp: {exp} must be a whole number with schedule release, "
                              "which raises negative numbers to it; choose another schedule or exponent")
        if schedule == "interval" and not 0 <= sigma_lo < sigma_hi:
            raise ConfigError(f"guider_config.params: needs 0 <= sigma_lo < sigma_hi, not {sigma_lo} and {sigma_hi}")
        self.exp, self.num_steps, self.schedule = exp, num_steps, schedule
        self.sigma_lo, self.sigma_hi = sigma_lo, sigma_hi

    def needs_timestep(self) -> bool:
        return self.schedule == "release"

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> Scale:
        if scale is not None and is_unguided(scale):
            return 1.0
        if self.schedule == "interval":
            weight = float(self.sigma_lo < noise.ratio <= self.sigma_hi)
        elif self.schedule == "release":
            if noise.timestep is None:
                raise ConfigError("guider_config: DynamicCFG's schedule release needs timesteps, which neither the "
                                  "sampler's discretization nor the denoiser has; choose another schedule")
            weight = self._weight(noise.num_steps - noise.timestep, noise.num_steps)
        else:
            weight = self._weight(noise.index + 1, noise.num_steps)
        return self._scale(weight, scale)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        """Guide a doubled batch `x` (2B, ...) at `step_index`: num_steps - timestep for the release schedule, the step
        counted from 1 for the smooth ones; the interval schedule reads `sigma` (sigma / alpha) instead.
        """
        if self.schedule == "interval":
            if sigma is None:
                raise ValueError("the interval schedule needs sigma")
            ratio = float(torch.as_tensor(sigma).flatten()[0])
            weight = float(self.sigma_lo < ratio <= self.sigma_hi)
        elif step_index is None:
            raise ValueError(f"the {self.schedule} schedule needs step_index")
        else:
            weight = self._weight(float(step_index), self.num_steps)
        return self.combine(x, self._scale(weight, scale))

    def _scale(self, weight: float, scale: Scale | None) -> Scale:
        return 1 + (self.scale if scale is None else scale) * weight

    def _weight(self, k: float, num_steps: int) -> float:
        rising = (1 - math.cos(math.pi * (k / num_steps) ** self.exp)) / 2
        return 1 - rising if self.schedule == "decreasing" else rising
