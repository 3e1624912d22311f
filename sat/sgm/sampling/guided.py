"""The guided estimate of x0 at a noise level, with no more network passes than the guidance needs."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sgm.guiders import Scale, is_unguided
from sgm.noise_schedule import VP, NoiseLevel


@dataclass(frozen=True)
class Guided:
    """Called with (x, noise) -> estimate of x0; `uc` None means conditional alone, whatever the guider says."""

    denoiser: Callable
    guider: Callable
    cond: Mapping[str, torch.Tensor]
    uc: Mapping[str, torch.Tensor] | None
    scale: Scale | None
    model_inputs: Mapping

    def __call__(self, x: torch.Tensor, noise: NoiseLevel) -> torch.Tensor:
        scale = self.scale_at(noise)
        level = x.new_full((len(x),), noise.level)
        if is_unguided(scale):
            return self.denoiser(x, level, self.cond, **self._inputs(noise, x)).to(x.dtype)
        pair, levels, cond = self.guider.prepare_inputs(x, level, self.cond, self.uc)
        estimates = self.denoiser(pair, levels, cond, **self._inputs(noise, pair))
        return self.guider.combine(estimates.to(x.dtype), scale)

    def scale_at(self, noise: NoiseLevel) -> Scale:
        """The guidance scale used at this level."""
        if self.uc is None:
            return 1.0
        return self.guider.scale_at(replace(noise, timestep=self.timestep(noise)), self.scale)

    def timestep(self, noise: NoiseLevel) -> float | None:
        """The schedule's timestep, or the denoiser's of equal SNR where the schedule has none."""
        timestep_at = getattr(self.denoiser, "timestep_at", None)
        if noise.timestep is not None or timestep_at is None:
            return noise.timestep
        return timestep_at(noise.ratio)

    def _inputs(self, noise: NoiseLevel, x: torch.Tensor) -> dict:
        """Network inputs with a row for each row of x, and the timestep where the level alone does not tell it."""
        inputs = {k: _rows(v, len(x)) for k, v in self.model_inputs.items()}
        if noise.parameterization == VP and noise.timestep is not None:
            inputs["idx"] = x.new_full((len(x),), noise.timestep)
        return inputs


def _rows(value, rows: int):
    per_row = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) * 2 == rows
    return torch.cat([value, value]) if per_row else value
