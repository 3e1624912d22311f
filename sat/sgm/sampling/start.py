"""Where a run begins: at noise alone, at a clip under noise, or at latents that already lie on a level."""
from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import ConfigError
from sgm.noise_schedule import NoiseSchedule


class Beginning(NamedTuple):
    """Latents `x` at level `first` of a schedule; `held` has the clean first frames that `fixed_frames` keeps."""

    x: torch.Tensor
    first: int
    held: torch.Tensor


@dataclass(frozen=True)
class FromNoise:
    """Unit noise, scaled to the schedule's first level."""

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        first = schedule.levels()[0]
        return Beginning(noise * (first.alpha**2 + first.sigma**2) ** 0.5, 0, noise)


@dataclass(frozen=True)
class FromClip:
    """SDEdit (Meng et al. 2022, algorithm 1): a clip noised to the level where `strength` of the steps are left.

    `latents` are clean (B, T, C, H, W). Strength 0 leaves them as they are; 1 runs all steps, and at zero terminal SNR
    nothing of the clip is left then. Raises ConfigError for a strength outside 0 to 1.
    """

    latents: torch.Tensor
    strength: float

    def __post_init__(self):
        check_strength(self.strength)

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        first = schedule.index_with_left(self.strength)
        level, latents = schedule.levels()[first], self.latents.to(noise)
        return Beginning(level.alpha * latents + level.sigma * noise, first, latents)


@dataclass(frozen=True)
class FromLevel:
    """Latents (B, T, C, H, W) that lie on the schedule's level `first`, such as an inversion gives."""

    latents: torch.Tensor
    first: int

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        latents = self.latents.to(noise)
        return Beginning(latents, self.first, latents)


Start = FromNoise | FromClip | FromLevel


def check_strength(strength: float, where: str = "strength") -> None:
    """Raises ConfigError for a share of the steps outside 0 to 1."""
    if not 0 <= strength <= 1:
        raise ConfigError(f"{where} is {strength}; it is the share of the steps that a clip goes through, from 0 to 1")
