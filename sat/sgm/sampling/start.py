"""The start of a run: noise alone, a noised clip, or latents that are already at a level of the schedule."""
from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import ConfigError
from sgm.noise_schedule import NoiseSchedule


class Beginning(NamedTuple):
    """The latents `x` at level `first` of a schedule; `held` has the clean first frames that `fixed_frames` keeps.

    `known` are clean first frames that every denoised estimate of the run has, None without any. Every step is made
    `rounds` times, with noise added back in between.
    """

    x: torch.Tensor
    first: int
    held: torch.Tensor
    known: torch.Tensor | None = None
    rounds: int = 1


@dataclass(frozen=True)
class FromNoise:
    """A start from unit noise, scaled to the schedule's first level."""

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        first = schedule.levels()[0]
        return Beginning(noise * (first.alpha**2 + first.sigma**2) ** 0.5, 0, noise)


@dataclass(frozen=True)
class FromClip:
    """A start from a clip, noised to the level with `strength` of the steps left.

    This is SDEdit (Meng et al. 2022, algorithm 1). `latents` (B, T, C, H, W) are clean. Strength 0 does not
    change them; 1 runs all steps, which at zero terminal SNR leaves nothing of the clip. Raises ConfigError for a
    strength outside 0 to 1.
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
    """A start from latents (B, T, C, H, W) at level `first` of the schedule, such as an inversion returns."""

    latents: torch.Tensor
    first: int

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        latents = self.latents.to(noise)
        return Beginning(latents, self.first, latents)


@dataclass(frozen=True)
class Continuing:
    """A start from unit noise of which the first latent frames are known: `latents` (B, k, C, H, W), clean.

    They are noised by the run's own noise, and every denoised estimate is given them in place of its own. So they are
    on the path that leads to them at each level, whatever the sampler's steps. A network that was not trained with
    known frames fits the others to them better if each step is made again from its start, to which noise leads back:
    resampling of RePaint (Lugmayr et al. 2022, section 4.2) with jumps of one step, `rounds` times in all.
    """

    latents: torch.Tensor
    rounds: int = 2

    def begin(self, schedule: NoiseSchedule, noise: torch.Tensor) -> Beginning:
        first, known = schedule.levels()[0], self.latents.to(noise)
        x, frames = FromNoise().begin(schedule, noise).x, known.shape[1]
        noised = first.alpha * known + first.sigma * noise[:, :frames]
        return Beginning(torch.cat([noised, x[:, frames:]], dim=1), 0, noise, known, self.rounds)


Start = FromNoise | FromClip | FromLevel | Continuing


def check_strength(strength: float, where: str = "strength") -> None:
    """Raise ConfigError for a share of the steps outside 0 to 1."""
    if not 0 <= strength <= 1:
        raise ConfigError(f"{where} is {strength}; it is the share of the steps that a clip goes through, from 0 to 1")
