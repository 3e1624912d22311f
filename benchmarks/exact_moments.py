"""The exact mean and covariance of what samplers make of Gaussian data, and runs that follow one Brownian path.

A step is linear in the latents and in the noise it draws, so that unit impulses of noise measure both.
"""
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from benchmarks.exact import CorrelatedGaussian, Gaussian
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.sampling.base import Run, Sampler
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import FARTHEST, Noise, StandIn

Asked = tuple[tuple[int, ...], float, float]  # numbers of `other`, and the two times of a draw


def moments(sampler: Sampler, num_steps: int, mean: torch.Tensor, covariance: torch.Tensor, path: bool = False
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean (C,) and covariance (C, C) of an unguided sampler's output on Gaussian data with the given
    moments, from a start with the exact moments of the schedule's first level, with fresh noise or with that of a path.
    """
    schedule = sampler.schedule(num_steps)
    start = marginal(schedule.levels()[0], mean, covariance)
    x, noise = impulses(sampler, schedule, *start, shape=(1, len(mean), 1, 1), path=path)
    data = CorrelatedGaussian(schedule.parameterization, mean, covariance)
    return moments_of(_run(sampler, schedule, x, data, noise))


def impulses(sampler: Sampler, schedule: NoiseSchedule, mean: torch.Tensor, covariance: torch.Tensor,
             shape: tuple[int, ...], path: bool = False) -> tuple[torch.Tensor, "Draws"]:
    """Return latents (rows, *shape) with these moments of their elements, and the noise of a run from there.

    A step is linear in the latents and in the noise it draws. One batch therefore measures both: in each row a single
    element of the start or of one draw is 1 and all others are 0; in the first row all are 0. On a path it is an
    increment of the path between two neighbours of the places that the run asks for.
    """
    asked = _asked(sampler, schedule)
    noise = Increments(asked, shape) if path else Draws(len(asked), shape)
    x = noise.zeros()
    x[1:1 + noise.size] = torch.linalg.cholesky(covariance).T.reshape(noise.size, *shape)
    return x + mean.view(shape), noise


def moments_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (n,) and covariance (n, n) of the elements of latents (rows, ...) that began as `impulses`."""
    x = x.flatten(1)
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


@dataclass
class Draws:
    """Noise of a batch in which each draw is 1 in rows of its own, one for each element of `shape` (T, C, H, W)."""

    count: int
    shape: tuple[int, ...]
    drawn: int = 0

    @property
    def size(self) -> int:
        """The number of elements of a row."""
        return math.prod(self.shape)

    def zeros(self) -> torch.Tensor:
        """Return latents (rows, T, C, H, W) that are 0."""
        return torch.zeros(1 + self.size * (1 + self.count), *self.shape, dtype=torch.float64)

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        self.drawn += 1
        return self._at({self.drawn: 1.0})

    def other(self, number: int) -> "Draws":
        return self

    def _at(self, amounts: Mapping[int, float]) -> torch.Tensor:
        noise = self.zeros()
        for place, amount in amounts.items():
            first = 1 + self.size * place
            noise[first:first + self.size] = amount * torch.eye(self.size, dtype=torch.float64).view(-1, *self.shape)
        return noise


class Increments(Draws):
    """Noise of a batch in which each increment of a path between two neighbouring times is 1 in rows of its own."""

    def __init__(self, asked: Sequence[Asked], shape: tuple[int, ...], numbers: tuple[int, ...] = ()):
        self.asked, self.numbers = asked, numbers
        self.times = {key: sorted({time for one, *both in asked if one == key for time in both})
                      for key in dict.fromkeys(one for one, _, _ in asked)}
        super().__init__(sum(len(times) - 1 for times in self.times.values()), shape)

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        first, last = _times(now, then)
        place, amounts = 1, {}
        for key, times in self.times.items():
            for low, high in pairwise(times):
                if key == self.numbers and first <= low and high <= last:
                    amounts[place] = math.sqrt((high - low) / (last - first))
                place += 1
        return self._at(amounts)

    def other(self, number: int) -> "Increments":
        return Increments(self.asked, self.shape, (*self.numbers, number))


@dataclass(frozen=True)
class Asking:
    """Noise that is 0 everywhere, and remembers for which intervals it was asked."""

    like: torch.Tensor
    asked: list[Asked]
    numbers: tuple[int, ...] = ()

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        self.asked.append((self.numbers, *_times(now, then)))
        return torch.zeros_like(self.like)

    def other(self, number: int) -> "Asking":
        return replace(self, numbers=(*self.numbers, number))


def _times(now: NoiseLevel | None, then: NoiseLevel | None) -> tuple[float, float]:
    """Return the times of a Brownian path at two levels, in order: (alpha / sigma)^2; (0, 1) without levels."""
    if now is None or then is None:
        return 0.0, 1.0
    return min(_time(now), _time(then)), max(_time(now), _time(then))


def _time(level: NoiseLevel) -> float:
    return math.exp(2 * min(max(level.lamb, -FARTHEST), FARTHEST)) if level.alpha > 0 else 0.0


def _asked(sampler: Sampler, schedule: NoiseSchedule) -> list[Asked]:
    """Return what a run asks of its noise."""
    zero, found = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64), []
    _run(sampler, schedule, zero, lambda x, level, cond, **inputs: x, Asking(zero, found))
    return found


def marginal(level: NoiseLevel, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact mean (C,) and covariance (C, C) at a noise level of data with the given moments."""
    return level.alpha * mean, level.alpha**2 * covariance + level.sigma**2 * torch.eye(len(mean), dtype=mean.dtype)


def bias(sampler: Sampler, num_steps: int, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return the differences (C + C^2,) of the samples' exact mean and covariance from those of the last level."""
    exact = marginal(sampler.schedule(num_steps).levels()[-1], mean, covariance)
    found = moments(sampler, num_steps, mean, covariance)
    return torch.cat([(one - other).flatten() for one, other in zip(found, exact, strict=True)])


def count_draws(sampler: Sampler, num_steps: int) -> int:
    """Return how often a run of a sampler draws noise after its start."""
    return len(_asked(sampler, sampler.schedule(num_steps)))


def responses(sampler: Sampler, num_steps: int, size: float = 1.0) -> torch.Tensor:
    """Return by how much noise of this size moves each step (steps,), taken alone from latents that are 0."""
    schedule, found = sampler.schedule(num_steps), []
    zero, cond = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64), Conditioning({"crossattn": torch.zeros(1, 1, 1)})
    guided = Guided(Gaussian(schedule.parameterization), sampler.guider, cond, None, {})
    for now, then in pairwise(schedule.levels()):
        with_it, without = (sampler.step(zero, now, then, Run(schedule, guided, StandIn(draw)), StepState())[0]
                            for draw in (lambda: torch.full_like(zero, size), lambda: torch.zeros_like(zero)))
        found.append(float(with_it - without))
    return torch.tensor(found, dtype=zero.dtype)


def steps_of(sampler: Sampler, schedule: NoiseSchedule, x: torch.Tensor, denoiser: Callable, draw: Noise
             ) -> Iterator[tuple[NoiseLevel, torch.Tensor]]:
    """Yield for each step of an unguided run from x the level that it arrives at, and the latents there."""
    run, state = Run(schedule, Guided(denoiser, sampler.guider, Conditioning({}), None, {}), draw), StepState()
    for now, then in pairwise(schedule.levels()):
        x, _, state = sampler.step(x, now, then, run, state)
        yield then, x


def _run(sampler: Sampler, schedule: NoiseSchedule, x: torch.Tensor, denoiser: Callable, draw: Noise) -> torch.Tensor:
    return deque(steps_of(sampler, schedule, x, denoiser, draw), maxlen=1).pop()[1]


@dataclass
class RememberedPath:
    """A Brownian path in the time (alpha / sigma)^2 that keeps what it was asked for, and is found between by bridges.

    It is the same for all runs that it is given to, whatever their steps.
    """

    like: torch.Tensor
    generator: torch.Generator
    times: list[float] = field(default_factory=lambda: [0.0])
    values: list[torch.Tensor] = field(default_factory=list)
    others: dict[int, "RememberedPath"] = field(default_factory=dict)

    def __call__(self, now: NoiseLevel | None = None, then: NoiseLevel | None = None) -> torch.Tensor:
        if now is None or then is None:  # a draw that belongs to no interval
            return self._unit()
        first, last = _times(now, then)
        return (self._at(last) - self._at(first)) / math.sqrt(last - first)

    def other(self, number: int) -> "RememberedPath":
        return self.others.setdefault(number, RememberedPath(self.like, self.generator))

    def _at(self, time: float) -> torch.Tensor:
        if not self.values:
            self.values.append(torch.zeros_like(self.like))
        place = bisect_left(self.times, time)
        if place < len(self.times) and self.times[place] == time:
            return self.values[place]
        value = self.values[place - 1]
        before, after = self.times[place - 1], self.times[place] if place < len(self.times) else math.inf
        share = (time - before) / (after - before)
        spread = math.sqrt((time - before) * (1 - share))
        value = value + (share * (self.values[place] - value) if share > 0 else 0.0) + spread * self._unit()
        self.times.insert(place, time)
        self.values.insert(place, value)
        return value

    def _unit(self) -> torch.Tensor:
        return torch.randn(self.like.shape, generator=self.generator, dtype=self.like.dtype)


def path_runs(sampler: Sampler, steps: Sequence[int], noise: torch.Tensor, data: Callable, generator: torch.Generator
              ) -> list[torch.Tensor]:
    """Return unguided runs with these numbers of steps, from the same start and with the same Brownian path.

    `data` makes the denoiser of a parameterization.
    """
    path, outs = RememberedPath(noise, generator), []
    for n in steps:
        schedule = sampler.schedule(n)
        first = schedule.levels()[0]
        start = noise * math.hypot(first.alpha, first.sigma)
        outs.append(_run(sampler, schedule, start, data(schedule.parameterization), path))
    return outs
