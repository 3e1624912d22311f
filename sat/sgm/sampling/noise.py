"""The noise that steps add: drawn anew, or the increments of a Brownian path that is the same for all step counts."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from common.errors import ConfigError
from common.seeds import generator_for
from common.tensors import Generators, draw_noise
from sgm.noise_schedule import NoiseLevel

FARTHEST = 32.0  # lambda beyond which a level counts as zero SNR or clean; a ratio of 1e-14
DEPTH = 32  # halvings of the range of lambda: levels are told apart down to 1.5e-8


class Noise(Protocol):
    """The source of the unit noise that a step from one level to another adds."""

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        """Return unit noise shaped like the latents for the step from `now` to `then`."""

    def other(self, number: int) -> "Noise":
        """Return a source whose noise is independent of this one's: the number-th."""


@dataclass(frozen=True)
class FreshNoise:
    """Noise that is drawn from the run's generators call by call, whatever the step."""

    like: torch.Tensor
    generator: Generators = None

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        return draw_noise(self.like, self.generator)

    def other(self, number: int) -> "FreshNoise":
        return self


@dataclass(frozen=True)
class StandIn:
    """Noise that a function without arguments returns, for measurements."""

    draw: Callable[[], torch.Tensor]

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        return self.draw()

    def other(self, number: int) -> "StandIn":
        return self


@dataclass(frozen=True)
class BrownianPath:
    """Normalized increments of a Brownian motion B per row, whose seeds decide it: a virtual Brownian tree.

    The motion's time is v = (alpha / sigma)^2, 0 at zero SNR. In it the noise that the reverse SDE adds from `now` to
    `then` is exactly (B(v') - B(v)) / sqrt(v' - v). So noise over two intervals adds up to the noise over both, with as
    many steps as there may be, and runs with few and many steps follow one path.

    B is found at the halves of a range of lambda, each from a seed of its own, by the Brownian bridge between its
    neighbours (Li et al. 2020, algorithm 3). Nothing is kept between calls.
    """

    like: torch.Tensor
    seeds: Sequence[int]  # one for each row
    numbers: tuple[int, ...] = ()

    @classmethod
    def drawn(cls, like: torch.Tensor, generator: Generators) -> "BrownianPath":
        """Return the path of a run, whose seeds are the next draws of its generators."""
        if generator is None or isinstance(generator, torch.Generator):
            return cls(like, _seeds(len(like), generator))
        return cls(like, [_seeds(1, one)[0] for one in generator])

    def other(self, number: int) -> "BrownianPath":
        return replace(self, numbers=(*self.numbers, number))

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        """Return unit noise for the interval between two levels, in either order.

        Raises ConfigError without levels, and for two that are too close to tell apart.
        """
        if now is None or then is None:
            raise ConfigError("the sampler draws noise without saying for which step, which noise: path needs; write "
                              "run.draw(now, then)")
        first, last = sorted(_place(level) for level in (now, then))
        if first == last:
            raise ConfigError(f"noise: path cannot tell the levels sigma / alpha {now.ratio:.8g} and "
                              f"{then.ratio:.8g} apart; use fewer steps")
        increment = self._at(last) - self._at(first)
        return (increment / math.sqrt(_time(last) - _time(first))).to(self.like)

    def _at(self, place: int) -> torch.Tensor:
        """Return B at a place, in float64."""
        low, high, width = 0, 2**DEPTH, 2**DEPTH
        before = torch.zeros(self.like.shape, dtype=torch.float64)
        if place == low:
            return before
        after = math.sqrt(_time(high)) * self._unit(high)
        while place != high:
            width //= 2
            middle = low + width
            share = (_time(middle) - _time(low)) / (_time(high) - _time(low))
            spread = math.sqrt(share * (_time(high) - _time(middle)))
            value = before + share * (after - before) + spread * self._unit(middle)
            if place < middle:
                high, after = middle, value
            else:
                low, before = middle, value
            if place == low:
                return before
        return after

    def _unit(self, place: int) -> torch.Tensor:
        """Return the unit noise of a place of the tree."""
        shape = self.like.shape[1:]
        return torch.stack([torch.randn(shape, generator=generator_for("path", seed, *self.numbers, place),
                                        dtype=torch.float64) for seed in self.seeds])


def _seeds(count: int, generator: torch.Generator | None) -> list[int]:
    device = "cpu" if generator is None else generator.device
    return torch.randint(2**62, (count,), generator=generator, device=device).tolist()


def _place(level: NoiseLevel) -> int:
    """Return the place of a level among the 2^DEPTH parts of the range of lambda; 0 is zero SNR."""
    lamb = min(max(level.lamb, -FARTHEST), FARTHEST)
    return round((lamb + FARTHEST) / (2 * FARTHEST) * 2**DEPTH)


def _time(place: int) -> float:
    """Return the Brownian motion's time v at a place."""
    return 0.0 if place == 0 else math.exp(2 * (place / 2**DEPTH * 2 * FARTHEST - FARTHEST))
