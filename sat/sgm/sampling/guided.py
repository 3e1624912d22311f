"""The guided estimate of x0 at a noise level, evaluating no more branches than the guidance needs."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from common.errors import ConfigError
from sgm.conditioning import Conditioning
from sgm.guidance_scale import Scale, is_unguided
from sgm.guiders import COND, Estimates, Evaluation, Pass
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VP


@dataclass(frozen=True)
class PassPlan:
    """The way in which branches are evaluated, which samplers and guiders need not know.

    `step_cache` lets forward passes skip layers (`network.step_cache.StepCache`), None if all layers always run.
    `sharing` distributes branches over several processes (`parallel.guidance.SharedBranches`), None if each evaluates
    them all. `one_by_one`: never two branches in one batch.
    """

    step_cache: Any = None
    sharing: Any = None
    one_by_one: bool = False


@dataclass(frozen=True)
class StepState:
    """The state of a run between evaluations: an evaluation or a step takes one and returns the next.

    `passes` is the number of branches evaluated for the batch. The others are None at first: `memory` is what the
    guider keeps for its next estimate, `cached` what the step cache keeps for its next forward pass
    (`network.step_cache.CacheState`), `history` what the sampler keeps for its next step.
    """

    passes: int = 0
    memory: Any = None
    cached: Any = None
    history: Any = None

    @classmethod
    def of_rows(cls, rows: Sequence["StepState"]) -> "StepState":
        """Return the state of a batch whose rows were evaluated one by one; `passes` is the largest of theirs.

        A guider's memory and a history stay with the rows.
        """
        first, *others = (row.cached for row in rows)
        return cls(max(row.passes for row in rows), cached=None if first is None else first.joined(others))

    def with_history(self, history: Any) -> "StepState":
        """Return this state with another history."""
        return replace(self, history=history)


@dataclass(frozen=True)
class Guided:
    """The guided estimate of x0; without an unconditional half, always the conditional branch alone.

    A call with (x, noise, state) returns the estimate and the state after it, and changes nothing.
    """

    denoiser: Callable
    guider: Any
    conditioning: Conditioning
    scale: Scale | None
    model_inputs: Mapping
    plan: PassPlan = PassPlan()
    levels: Sequence[NoiseLevel] = ()  # of the run's schedule, by which a guider can look at the next one
    known: torch.Tensor | None = None  # clean first frames (B, k, C, H, W), which every estimate has

    def __call__(self, x: torch.Tensor, noise: NoiseLevel, state: StepState | None = None
                 ) -> tuple[torch.Tensor, StepState]:
        if not isinstance(state, StepState):
            raise ConfigError("the sampler calls run.predict without the step's state; write denoised, state = "
                              "run.predict(x, now, state), see docs/samplers.md")
        scale = self.scale_at(noise)
        passes = (COND,) if is_unguided(scale) else tuple(self.guider.passes_at(noise))
        estimates, cached = self._estimates(passes, x, noise, self._cached(state, len(x), noise))
        state = replace(state, passes=state.passes + len(passes), cached=cached)
        if is_unguided(scale):
            return self._with_known(estimates[0]), state
        at = Evaluation(x, noise, scale, self.after(noise))
        guided, memory = self.guider.guide(Estimates(passes, estimates), at, state.memory)
        return self._with_known(guided), replace(state, memory=memory)

    def skipped(self, state: StepState, device: torch.device) -> tuple[float, ...]:
        """Return the share of its branches that each row has skipped so far; empty without a step cache.

        All processes that share the branches must ask for it, with the device on which they sample.
        """
        if state.cached is None:
            return ()
        own, sharing = state.cached.counts, self.plan.sharing
        counts = own if sharing is None else sharing.total(own, device)
        return tuple(skipped / max(1, asked) for skipped, asked in counts)

    def scale_at(self, noise: NoiseLevel) -> Scale:
        """Return the guidance scale used at this level."""
        if self.conditioning.uncond is None:
            return 1.0
        return self.guider.scale_at(replace(noise, timestep=self.timestep(noise)), self.scale)

    def warn_without_effect(self) -> None:
        """Log a warning for videos whose unconditional half equals the conditional one, if the run is guided by it."""
        scale = getattr(self.guider, "scale", 1.0) if self.scale is None else self.scale
        if not is_unguided(scale) and any(one.unconditional for one in self.guider.passes):
            self.conditioning.warn_without_contrast()

    def after(self, noise: NoiseLevel) -> NoiseLevel | None:
        """Return the schedule's first level that is less noisy than this one; None without one."""
        return next((level for level in self.levels if level.ratio < noise.ratio * (1 - 1e-9)), None)

    def timestep(self, noise: NoiseLevel) -> float | None:
        """Return the schedule's timestep, or the denoiser's of equal SNR if the schedule has none."""
        timestep_at = getattr(self.denoiser, "timestep_at", None)
        if noise.timestep is not None or timestep_at is None:
            return noise.timestep
        return timestep_at(noise.ratio)

    def row(self, i: int, rows: int) -> "Guided":
        """Return the guided estimate of row i of `rows` alone."""
        def of(value):
            return value[i:i + 1] if _per_row(value, rows) else value

        inputs = {name: of(value) for name, value in self.model_inputs.items()}
        return replace(self, conditioning=self.conditioning.each(of), scale=of(self.scale), model_inputs=inputs,
                       known=of(self.known))

    def _with_known(self, estimate: torch.Tensor) -> torch.Tensor:
        return estimate if self.known is None else torch.cat([self.known, estimate[:, self.known.shape[1]:]], dim=1)

    def _cached(self, state: StepState, rows: int, noise: NoiseLevel) -> Any:
        """Return the step cache's state, which is empty in a run's first evaluation; None without a step cache."""
        first = state.cached is None and self.plan.step_cache is not None
        return self.plan.step_cache.begin(rows, noise.index) if first else state.cached

    def _estimates(self, passes: Sequence[Pass], x: torch.Tensor, noise: NoiseLevel, cached: Any
                   ) -> tuple[list[torch.Tensor], Any]:
        """Return one estimate (B, ...) per branch, and the step cache's new state."""
        if self.plan.sharing is None:
            return self._ask(passes, x, noise, cached)
        numbers = [self.guider.passes.index(one) for one in passes]
        own = [passes[i] for i in self.plan.sharing.own(numbers)]
        estimates, cached = self._ask(own, x, noise, cached)
        return self.plan.sharing.gather(numbers, estimates, like=x), cached

    def _ask(self, passes: Sequence[Pass], x: torch.Tensor, noise: NoiseLevel, cached: Any
             ) -> tuple[list[torch.Tensor], Any]:
        """Evaluate these branches in this process; return their estimates in order, and the step cache's new state."""
        estimates: list[torch.Tensor] = []
        for group in self._calls(passes):
            conditions = [self.conditioning.half(one.unconditional, one.zeroed) for one in group]
            copies = len(conditions)
            rows = _stacked([x] * copies)
            level = rows.new_full((len(rows),), noise.level)
            inputs = {name: _rows(value, len(x), copies) for name, value in self.model_inputs.items()}
            if noise.parameterization == VP and noise.timestep is not None:  # cannot be derived from the level
                inputs["idx"] = rows.new_full((len(rows),), noise.timestep)
            if cached is not None:
                numbers = [self.guider.passes.index(one) for one in group]
                inputs["layer_runner"] = cached.runner(numbers, noise.index, noise.num_steps)
            answers = self.denoiser(rows, level, _joined(conditions), **inputs, **group[0].inputs).to(x.dtype)
            if cached is not None:
                cached = cached.after(inputs["layer_runner"])
            estimates += answers.chunk(copies)
        return estimates, cached

    def _calls(self, passes: Sequence[Pass]) -> list[list[Pass]]:
        """Group the branches by forward pass: neighbours with the same additional inputs share one."""
        if self.plan.one_by_one:
            return [[one] for one in passes]
        return [list(group) for _, group in groupby(passes, key=lambda one: one.inputs)]


def _joined(conditions: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: _stacked([condition[name] for condition in conditions]) for name in conditions[0]}


def _rows(value, rows: int, copies: int):
    return _stacked([value] * copies) if _per_row(value, rows) else value


def _per_row(value, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
