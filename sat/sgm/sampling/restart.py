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

    def index(self, schedule: NoiseSchedule) -> int:
        """Return the index of the level nearest to `low` in log-SNR among those below `high` that a step arrives at."""
        arrivals = [level for level in schedule.levels()[1:-1] if level.ratio < self.high]
        if not arrivals:
            raise ConfigError(f"sampler_config.params.intervals: none of the {schedule.num_steps} steps arrives at a "
                              f"noise level below high {self.high}; raise high or num_steps")
        nearest = min(arrivals, key=lambda level: abs(level.lamb + math.log(self.low)))
        return int(nearest.index)

    def steps_back(self, schedule: NoiseSchedule, low: NoiseLevel) -> int:
        """Return the number of steps from `high` back to the level `low`."""
        return self.steps or sum(low.ratio <= level.ratio < self.high for level in schedule.levels())


@dataclass(kw_only=True)
class RestartSampler(HeunEDMSampler):
    """Heun's method with restarts (Xu et al. 2023).

    Each of `intervals` is a mapping with `low` and `high` (in sigma / alpha), `repeats`, and perhaps `steps`. At the
    level of the schedule nearest to `low`, the run goes up to `high` by adding noise and back along an EDM ramp,
    `repeats` times. A repeat costs 2 * `steps` evaluations; without repeats this is Heun's method. With a number of
    `steps` the error of the way back stays, however many steps the schedule has; without it, it falls as they do.
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
            interval.index(schedule)
        return schedule

    def step(self, x, now, then, run, state):
        x, denoised, state = super().step(x, now, then, run, state)
        for i, interval in enumerate(self._intervals):
            if interval.index(run.schedule) == then.index:
                for repeat in range(interval.repeats):
                    x, state = self._restarted(x, then, interval, run.other(i).other(repeat), state)
        return x, denoised, state

    def _restarted(self, x: torch.Tensor, low: NoiseLevel, interval: Interval, run: Run, state: StepState
                   ) -> tuple[torch.Tensor, StepState]:
        """Raise x from `low` to the interval's highest level by noise, and step it down to `low` again."""
        ends = (run.schedule.at_ratio(ratio, low.index) for ratio in (interval.high, interval.low))
        noise = run.other(1).draw(*ends)
        x, now = churn(x, low, interval.high / low.ratio - 1, self.s_noise * noise, run.schedule)
        ratios = EDMDiscretization(low.ratio, interval.high).levels(interval.steps_back(run.schedule, low) + 1)[1:-1]
        between = [run.schedule.at_ratio(ratio, low.index) for ratio in ratios.tolist()]
        for then in [*between, low]:
            x, _, state = super().step(x, now, then, run, state)
            now = then
        return x, state
