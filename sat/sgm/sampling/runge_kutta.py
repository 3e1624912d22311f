"""Third-order Runge-Kutta samplers, with the schedule's steps or with steps chosen by their error.

Divided by alpha + sigma, the latents of any schedule follow a rectified flow z = (1 - s) x0 + s noise in the time
s = sigma / (alpha + sigma). There Euler's step is exact for a constant estimate, and zero SNR (s = 1) is an ordinary
level. So is the clean end (s = 0), because the method does not evaluate at the end of a step.
"""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from common.errors import ConfigError
from common.kinds import NotNegative, Positive
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.sampling.base import Sampler
from sgm.sampling.guided import Guided, StepState

# Below this share of a schedule step's first s, the clean end is reached in one unchecked step. A network that was not
# trained there may disagree with its input, so that no step would be small enough.
CLEAN = 1e-4


@dataclass(frozen=True)
class Flow:
    """The rectified flow between two levels of a schedule."""

    predict: Guided
    schedule: NoiseSchedule
    now: NoiseLevel
    then: NoiseLevel

    @property
    def start(self) -> float:
        return self.now.sigma / (self.now.alpha + self.now.sigma)

    @property
    def end(self) -> float:
        return self.then.sigma / (self.then.alpha + self.then.sigma)

    def velocity(self, z: torch.Tensor, s: float, state: StepState) -> tuple[torch.Tensor, torch.Tensor, StepState]:
        """Return dz/ds = (z - denoised) / s at a time s above `end`, the denoised estimate in it, and the new state."""
        level = self._level(s)
        denoised, state = self.predict(z * (level.alpha + level.sigma), level, state)
        return (z - denoised) / s, denoised, state

    def ralston(self, z: torch.Tensor, first: torch.Tensor, s: float, end: float, state: StepState
                ) -> tuple[torch.Tensor, torch.Tensor, StepState]:
        """Return z at `end`, its difference from the midpoint rule, and the new state (Ralston 1962).

        `first` is the velocity at s.
        """
        h = end - s
        second, _, state = self.velocity(z + h / 2 * first, s + h / 2, state)
        third, _, state = self.velocity(z + 3 * h / 4 * second, s + 3 * h / 4, state)
        after = z + h * (2 * first + 3 * second + 4 * third) / 9
        return after, h * (2 * first - 6 * second + 4 * third) / 9, state

    def _level(self, s: float) -> NoiseLevel:
        if s == self.start:
            return self.now
        share = (self.start - s) / (self.start - self.end)
        return self.schedule.at_ratio(s / (1 - s), self.now.index + share * (self.then.index - self.now.index))


@dataclass(kw_only=True)
class RungeKutta3Sampler(Sampler):
    """Ralston's third-order method (Ralston 1962) on the schedule's rectified flow (Liu et al. 2023).

    It keeps its order from zero SNR and on the step to the clean end, where it evaluates at a half and a quarter of the
    last level's s. A network that was not trained there leaves a little of that level's noise.
    """

    convergence_order, nfe = 3, 3

    def step(self, x, now, then, run, state):
        flow = Flow(run.predict, run.schedule, now, then)
        z = x / (now.alpha + now.sigma)
        velocity, denoised, state = flow.velocity(z, flow.start, state)
        z, _, state = flow.ralston(z, velocity, flow.start, flow.end, state)
        return z * (then.alpha + then.sigma), denoised, state


class RowControl(NamedTuple):
    """A row between steps: the state of its own evaluations, their number, and the width of its next step in s."""

    state: StepState = StepState()
    used: int = 0
    width: float = math.inf


@dataclass(kw_only=True)
class AdaptiveSampler(Sampler):
    """Ralston's method with steps chosen by the difference from the embedded midpoint rule (Hairer et al. 1993, II.4).

    Every level of the schedule is reached exactly, for guidance and reports. Between two levels it takes as many steps
    as keep the error of each below atol + rtol |z|, as a root mean square over a row. Each row of a batch chooses its
    own steps and does not depend on its neighbours. A step takes 3 evaluations, and 2 more for each retry. Raises
    ConfigError naming the step if a row needs more than `max_evaluations`.
    """

    convergence_order, nfe, adaptive = None, None, True
    rtol: NotNegative = 1e-3
    atol: NotNegative = 1e-3
    max_evaluations: Positive = 1000

    def __post_init__(self):
        if self.rtol + self.atol == 0:
            raise ConfigError("sampler_config.params: rtol and atol must not both be 0")
        super().__post_init__()

    def schedule(self, num_steps: int | None = None, device: torch.device | str = "cpu") -> NoiseSchedule:
        schedule = super().schedule(num_steps, device)
        if self.max_evaluations < 3 * schedule.num_steps:
            raise ConfigError(f"sampler_config.params.max_evaluations: {self.max_evaluations} is not enough for "
                              f"{schedule.num_steps} steps of at least 3 each; raise it, or lower num_steps")
        return schedule

    def again(self, before: StepState, after: StepState) -> StepState:
        return after  # the rows' evaluations and widths, which have no history of estimates

    def step(self, x, now, then, run, state):
        controls = state.history or [RowControl()] * len(x)
        flows = [Flow(run.predict.row(i, len(x)), run.schedule, now, then) for i in range(len(x))]
        rows = [self._advance(row[None] / (now.alpha + now.sigma), flow, control)
                for row, flow, control in zip(x, flows, controls, strict=True)]
        z, denoised, controls = zip(*rows, strict=True)
        state = StepState.of_rows([control.state for control in controls]).with_history(controls)
        return torch.cat(z) * (then.alpha + then.sigma), torch.cat(denoised), state

    def _advance(self, z: torch.Tensor, flow: Flow, control: RowControl
                 ) -> tuple[torch.Tensor, torch.Tensor, RowControl]:
        """Step a row from the flow's start to its end; return z there, the estimate at its start, the new control."""
        s, (state, used, width) = flow.start, control
        velocity, denoised, state = flow.velocity(z, s, state)
        used += 1
        while s > flow.end:
            self._check_budget(used + 2, flow.now)
            near = flow.end == 0 and s <= CLEAN * flow.start
            end = flow.end if near else max(flow.end, s - width)
            after, difference, state = flow.ralston(z, velocity, s, end, state)
            error = 0.0 if near else self._error(z, after, difference)
            best = (s - end) * min(5.0, max(0.2, 0.9 * max(error, 1e-9) ** (-1 / 3)))
            width = max(width, best) if error <= 1 and s - end < width else best
            used += 2
            if error <= 1:
                z, s = after, end
                if s > flow.end:
                    velocity, _, state = flow.velocity(z, s, state)
                    used += 1
        return z, denoised, RowControl(state, used, width)

    def _error(self, z: torch.Tensor, after: torch.Tensor, difference: torch.Tensor) -> float:
        """Return the error relative to the tolerance; 0 if it is not finite, so that the run itself reports that."""
        scaled = difference / (self.atol + self.rtol * torch.maximum(z.abs(), after.abs()))
        error = float(scaled.square().mean().sqrt())
        return error if math.isfinite(error) else 0.0

    def _check_budget(self, needed: int, now: NoiseLevel) -> None:
        if needed > self.max_evaluations:
            raise ConfigError(f"sampler_config.params.max_evaluations: {self.max_evaluations} are used up at sampling "
                              f"step {now.index + 1} of {now.num_steps}; raise it, rtol or atol")
