"""Restart sampling: noise is added back over an interval, and integrated away again."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch

from common.errors import ConfigError
from common.kinds import AboveZero, SizeOrZero, Steps
from common.typed import Fields
from sgm.discretizer import EDMDiscretization
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.sampling.base import Run
from sgm.sampling.guided import StepState
from sgm.sampling.single_step import HeunEDMSampler
from sgm.sampling.steps import churn

SAME = 1e-6  # of sigma / alpha: levels that are this close are taken to be one


@dataclass(frozen=True)
class Interval:
    """A restart from `low` to `high` in sigma / alpha and back in `steps` steps of Heun's method, `repeats` times.

    Without `steps` they are as many as the schedule's own between the two.
    """

    low: AboveZero
    high: AboveZero
    repeats: SizeOrZero
    steps: Steps | None = None

    def __post_init__(self):
        if self.low >= self.high:
            raise ConfigError(f"sampler_config.params.intervals: needs low below high, not {self.low} and {self.high}")

    def start(self, schedule: NoiseSchedule) -> tuple[int, NoiseLevel]:
        """Return the index of the level at which the step over `low` ends, and the level `low`.

        Where no step goes over `low`, it is the schedule's next level beside it. Raises ConfigError if none is below
        `high`.
        """
        noisiest, *arrivals = schedule.levels()[:-1]
        if not arrivals or arrivals[-1].ratio >= self.high:
            raise ConfigError(f"sampler_config.params.intervals: none of the {schedule.num_steps} steps arrives at a "
                              f"noise level below high {self.high}; raise high or num_steps")
        low = max(self.low, arrivals[-1].ratio) if self.low < noisiest.ratio else arrivals[0].ratio
        end = next(level for level in arrivals if level.ratio <= low * (1 + SAME))
        near = math.isclose(end.ratio, low, rel_tol=SAME)
        return int(end.index), end if near else schedule.at_ratio(low, end.index)

    def steps_back(self, schedule: NoiseSchedule, end: NoiseLevel) -> int:
        """Return the number of steps from `high` back to a level."""
        return self.steps or max(1, sum(end.ratio <= level.ratio < self.high for level in schedule.levels()))


@dataclass(kw_only=True)
class RestartSampler(HeunEDMSampler):
    """Heun's method with restarts (Xu et al. 2023).

    Each of `intervals` is a mapping with `low` and `high` (in sigma / alpha), `repeats`, and perhaps `steps`. The step
    over `low` ends there; the run goes up to `high` by adding noise and back along an EDM ramp, `repeats` times, and
    the last time to the level at which the step would have ended. So it begins at the same noise whatever the number of
    steps. The paper takes the schedule's level nearest to `low`, which is another with other numbers of steps.

    A repeat costs 2 * `steps` evaluations; without repeats this is Heun's method. With a number of `steps` the error of
    the way back stays, however many steps the schedule has; without it, it falls as they do.
    """

    convergence_order, nfe = None, None  # type: ignore[assignment]  # neither is one number
    strong_order, weak_order = 2, 2  # its draws are few, and the same whatever the number of steps
    intervals: Sequence[Annotated[Mapping, Fields(Interval)]] = field(
        default_factory=lambda: [{"low": 0.1, "high": 2.0, "repeats": 2}])

    def __post_init__(self):
        self._intervals = [Interval(**interval) for interval in self.intervals]
        super().__post_init__()

    def schedule(self, num_steps: int | None = None, device: torch.device | str = "cpu") -> NoiseSchedule:
        schedule = super().schedule(num_steps, device)
        for interval in self._intervals:
            interval.start(schedule)
        return schedule

    def check_first(self, first):
        begun = self.schedule().levels()[first].ratio
        for interval in self._intervals:
            if interval.repeats and interval.low < begun < interval.high:
                raise ConfigError(f"sampler_config.params.intervals: a restart up to {interval.high:g} adds more noise "
                                  f"than the run starts with, sigma / alpha {begun:.3g}, and would change the clip as "
                                  "much; give a high below that, or a higher args.strength")

    def step(self, x, now, then, run, state):
        restarts = self._restarts_before(then, run.schedule)
        lows = [low for _, low, _ in restarts]
        x, denoised, state = super().step(x, now, [*lows, then][0], run, state)
        for (i, low, interval), after in zip(restarts, [*lows[1:], then], strict=False):
            for repeat in range(interval.repeats):
                end = after if repeat == interval.repeats - 1 else low
                x, state = self._restarted(x, low, end, interval, run.other(i).other(repeat), state)
        return x, denoised, state

    def _restarts_before(self, then: NoiseLevel, schedule: NoiseSchedule) -> list[tuple[int, NoiseLevel, Interval]]:
        """Return the intervals with repeats whose `low` the step to `then` goes over, with their numbers, as it does.
        """
        starts = [(i, *interval.start(schedule), interval) for i, interval in enumerate(self._intervals)]
        over = [(i, low, interval) for i, index, low, interval in starts if index == then.index and interval.repeats]
        return sorted(over, key=lambda one: -one[1].ratio)

    def _restarted(self, x: torch.Tensor, low: NoiseLevel, end: NoiseLevel, interval: Interval, run: Run,
                   state: StepState) -> tuple[torch.Tensor, StepState]:
        """Raise x from `low` to the interval's highest level by noise, and step it down to `end`."""
        ends = (run.schedule.at_ratio(ratio, low.index) for ratio in (interval.high, interval.low))
        noise = run.other(1).draw(*ends)
        x, now = churn(x, low, interval.high / low.ratio - 1, self.s_noise * noise, run.schedule)
        ratios = EDMDiscretization(end.ratio, interval.high).levels(interval.steps_back(run.schedule, end) + 1)[1:-1]
        between = [run.schedule.at_ratio(ratio, low.index) for ratio in ratios.tolist()]
        for then in [*between, end]:
            x, _, state = super().step(x, now, then, run, state)
            now = then
        return x, state
