"""The base of all samplers: the loop from unit noise to latents, noise from given generators, a report per step."""
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch

from common.errors import ConfigError, NumericalError
from common.kinds import Count, Part, Steps
from common.tensors import Generators, at_least_float32, draw_noise, row_rms
from common.unread import Unread
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.sampling.guided import Guided, PassPlan, StepState
from sgm.sampling.noise import BrownianPath, FreshNoise, Noise
from sgm.sampling.parts import UNGUIDED, Built, built_guider, built_schedule
from sgm.sampling.start import Beginning, FromNoise, Start
from sgm.sampling.steps import noised_back

DECLARED = {"convergence_order": "its order without noise (None if it always adds noise)",
            "nfe": "the estimates that a step takes (None if that varies)"}


@dataclass(frozen=True)
class StepInfo:
    """A finished step: its start `x` (B, T, C, H, W) at (alpha, sigma), and the guided estimate `denoised` from there.

    `passes` counts the branches evaluated for the batch since the run began; `skipped` is the share of them that each
    row skipped (empty without a step cache).
    """

    index: int
    num_steps: int
    x: torch.Tensor
    denoised: torch.Tensor
    alpha: float
    sigma: float
    timestep: float | None
    scale: float | torch.Tensor
    passes: int
    skipped: tuple[float, ...] = ()

    @property
    def x_norm(self) -> torch.Tensor:
        """The root mean square of each row of x, (B,)."""
        return row_rms(self.x)

    @property
    def denoised_norm(self) -> torch.Tensor:
        """The root mean square of each row of the denoised estimate, (B,)."""
        return row_rms(self.denoised)


@dataclass(frozen=True)
class Run:
    """The inputs of a step, which no step changes.

    `predict(x, noise, state)` returns the guided estimate of x0 and the state after it. `draw(now, then)` returns unit
    noise shaped like x for a step between two levels; that of steps beside each other is independent.
    """

    schedule: NoiseSchedule
    predict: Guided
    draw: Noise

    def other(self, number: int) -> "Run":
        """Return this run with independent noise, for steps over levels that other steps go through as well."""
        return replace(self, draw=self.draw.other(number))


@dataclass(kw_only=True)
class Sampler:
    """Base of the samplers; a subclass defines `step`.

    It declares `convergence_order` (without noise, for a smooth estimate; None if the method always adds noise), `nfe`,
    the evaluations of the guided estimate per step (None if that depends on the step), and `adaptive`, True if it
    chooses steps of its own between the levels. One that can add noise also declares its orders with noise:
    `strong_order`, of the error of single runs whose noise is a path, and `weak_order`, of the error of the samples'
    distribution.

    `fixed_frames` keeps the first latent frames of the given x, which are clean, in place; with `sdedit` they are
    noised to each level. `noise` is fresh, drawn step by step, or path: the increments of a Brownian path that is the
    same for every number of steps (`sgm.sampling.noise`).

    Files give schedule and guider as `discretization_config` and `guider_config`; Python also as the objects
    `discretization` and `guider`, or as neither: `schedule` then raises ConfigError, and nothing is guided.
    """

    convergence_order: ClassVar[int | None]
    nfe: ClassVar[int | None]
    strong_order: ClassVar[float | None] = None
    weak_order: ClassVar[float | None] = None
    starts_from_image: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False
    UNREAD: ClassVar[Mapping[str, Unread]] = {
        "verbose": Unread("progress is reported by the caller, a step at a time", (False,)),
        "device": Unread("sampling runs where its noise is; see args.device", ("cpu",)),
    }
    NEEDED_IN_FILES: ClassVar[tuple[str, ...]] = ("discretization_config",)

    discretization_config: Part | None = None
    num_steps: Steps | None = None
    guider_config: Part | None = None
    verbose: bool = False
    device: str = "cpu"
    fixed_frames: Count = 0
    sdedit: bool = False
    noise: Literal["fresh", "path"] = "fresh"
    discretization: Built = field(default=None, repr=False)
    guider: Built = field(default=None, repr=False)

    def __post_init__(self):
        self._check_declared()
        self.discretization = built_schedule(self.discretization, self.discretization_config)
        self.guider = built_guider(self.guider, self.guider_config)
        self.discretization_config = self.guider_config = None  # so that replace() has no second source of them
        if self.num_steps is not None and self.discretization is not None:
            self.schedule(self.num_steps)

    @property
    def has_guider(self) -> bool:
        """Return True if the sampler was given a guider, be it one that does not guide."""
        return self.guider is not UNGUIDED

    def _check_declared(self) -> None:
        """Raise ConfigError if the class does not define what every sampler has to."""
        name = type(self).__name__
        for attribute, meaning in DECLARED.items():
            if not hasattr(type(self), attribute):
                raise ConfigError(f"{name} declares no {attribute}, {meaning}; write it in the class: "
                                  f"{attribute} = 1")

    @abstractmethod
    def step(self, x: torch.Tensor, now: NoiseLevel, then: NoiseLevel, run: Run, state: StepState
             ) -> tuple[torch.Tensor, torch.Tensor, StepState]:
        """Step from x at `now` to `then`; return (x, the denoised estimate at `now`, state for the next step)."""
        raise NotImplementedError

    def again(self, before: StepState, after: StepState) -> StepState:
        """Return the state in which a step is made again from newly noised latents.

        It is that before the step, but all passes so far count, and of the history what holds for other noise.
        """
        return replace(before, passes=after.passes, cached=after.cached, history=self.history_again(before.history))

    def history_again(self, history: Any) -> Any:
        """Return what of a history holds for latents that were noised anew: all of it, if it has estimates of x0."""
        return history

    def check_first(self, first: int) -> None:
        """Raise ConfigError if a run that starts at this level of the schedule, from a clip, would not keep to it."""

    def schedule(self, num_steps: int | None = None, device: torch.device | str = "cpu") -> NoiseSchedule:
        """Return the schedule of a run; `num_steps` replaces the configured count. Raises ConfigError if not valid."""
        num_steps = self.num_steps if num_steps is None else num_steps
        if num_steps is None:
            raise ConfigError("sampler_config.params.num_steps: missing; set it there or pass num_steps")
        if self.discretization is None:
            raise ConfigError(f"{type(self).__name__} has no schedule; give discretization=…, such as "
                              "VPRampDiscretization()")
        return self.discretization.schedule(num_steps, device)

    def __call__(self, denoiser: Callable, x: torch.Tensor, cond: Conditioning | Mapping,
                 uc: Mapping | None = None, num_steps: int | None = None, scale=None, generator: Generators = None,
                 callback: Callable[[StepInfo], None] | None = None, start: Start | None = None,
                 plan: PassPlan | None = None, **model_inputs) -> torch.Tensor:
        """Sample latents from unit noise x (B, T, C, H, W), of the same shape and at least float32; x is not changed.

        `cond` is a conditioning, or its conditional half beside its unconditional one, `uc` (None: no guidance).
        `start` lets the run begin from something other than noise. `scale` replaces the guider's (exactly 1: unguided).
        Noise is drawn from torch's global state, from one generator, or from one per row. `plan`: how branches are
        evaluated. Raises NumericalError naming the step at which the latents are no longer finite.
        """
        schedule = self.schedule(num_steps)
        beginning = (start or FromNoise()).begin(schedule, at_least_float32(x))
        guided = Guided(denoiser, self.guider, Conditioning.of(cond, uc), scale, model_inputs, plan or PassPlan(),
                        schedule.levels(), beginning.known)
        guided.warn_without_effect()
        return self._solve(beginning, schedule, guided, generator, callback)

    def _solve(self, beginning: Beginning, schedule: NoiseSchedule, guided: Guided, generator: Generators,
               callback: Callable | None) -> torch.Tensor:
        x, first, held, known, rounds = beginning
        prefix, state = held[:, :self.fixed_frames], StepState()
        run = Run(schedule, guided, self._noise(x, generator))
        for now, then in list(pairwise(schedule.levels()))[first:]:
            x = self._hold(x, prefix, now, generator)
            for i in range(rounds - 1 if _repeatable(now, then) else 0):
                after, _, later = self.step(x, now, then, run.other(2 * i), state)
                x = noised_back(after, now, then, run.other(2 * i + 1).draw(now, then))
                state = self.again(state, later)
            before = x
            x, denoised, state = self.step(x, now, then, run, state)
            check_finite(x, f"sampling step {now.index + 1} of {now.num_steps}")
            skipped = guided.skipped(state, x.device)
            if callback is not None:
                callback(StepInfo(int(now.index), now.num_steps, before, denoised, now.alpha, now.sigma,
                                  guided.timestep(now), guided.scale_at(now), state.passes, skipped))
        prefix = prefix if known is None else known
        return torch.cat([prefix, x[:, prefix.shape[1]:]], dim=1)

    def _noise(self, x: torch.Tensor, generator: Generators) -> Noise:
        return BrownianPath.drawn(x, generator) if self.noise == "path" else FreshNoise(x, generator)

    def _hold(self, x: torch.Tensor, prefix: torch.Tensor, now: NoiseLevel, generator: Generators) -> torch.Tensor:
        if self.fixed_frames == 0:
            return x
        if self.sdedit:
            prefix = now.alpha * prefix + now.sigma * draw_noise(prefix, generator)
        return torch.cat([prefix, x[:, prefix.shape[1]:]], dim=1)


def _repeatable(now: NoiseLevel, then: NoiseLevel) -> bool:
    """Return True if a step made again would begin with something of its first result, and not with the clean end."""
    return now.alpha > 0 and then.sigma > 0


def check_finite(x: torch.Tensor, where: str) -> None:
    """Raise NumericalError if the latents x are not all finite."""
    if not torch.isfinite(x).all():
        raise NumericalError(f"{where}: the latents are no longer finite; use a wider dtype (bf16 or fp32), "
                             "fewer steps or less guidance")
