"""Checks of what a sampler makes of its denoised estimates: guided ones, those of each step, and their precision."""
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

import torch

from benchmarks.checks.manners import solve
from benchmarks.checks.outcome import Outcome, near
from benchmarks.checks.problems import EDM, Problems, sampler_of, unit
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseLevel
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import StandIn

GUIDED: Mapping = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 3.0}}
LEAST = 1e-9  # by which a step moves with its own estimate
SINGLE = 1e-4  # by which float32 may move latents of deviation 1; half precision moves them further
STEPS, SHAPE = 12, (2, 2, 3, 2, 2)
TABLE = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 3.0}}
NEAR = 1e-3  # of a timestep
LEVEL = ("the network is told the timestep, and guidance varies with the index: make a level between two by "
         "run.schedule.at_ratio(ratio, index), with now.index and a fraction for its index")


def guided(config: Mapping, problems: Problems) -> Outcome:
    """Check that a run is guided as its guider says: for Gaussian data with means 1 and 0 guidance of scale 3 has the
    estimates of data with mean 3, and so the same latents."""
    found = solve(sampler_of(config, guider=GUIDED), problems=problems)
    return near(found, solve(sampler_of(config), problems=problems, mean=GUIDED["params"]["scale"]), 1e-8,
                "guidance has another effect than on the estimate: use what run.predict returns, and replace neither "
                "its guider nor its scale")


@dataclass(frozen=True)
class Moved(Guided):
    """A guided estimate to which a number is added, and which remembers the dtypes of the latents it was given."""

    by: float = 0.0
    dtypes: set[torch.dtype] = field(default_factory=set)

    def __call__(self, x, noise, state=None):
        self.dtypes.add(x.dtype)
        estimate, state = super().__call__(x, noise, state)
        return estimate + self.by, state


def _beginning(sampler: Sampler, problems: Problems, dtype: torch.dtype) -> tuple[Run, torch.Tensor]:
    """Return a run on Gaussian data whose noise is the same in every step, and its first latents, in this dtype."""
    schedule, noise = sampler.schedule(STEPS), problems.noise(SHAPE).to(dtype)
    data = problems.gaussian(schedule.parameterization)
    predict = Moved(lambda x, *given, **inputs: data(x.double(), *given, **inputs).to(x), sampler.guider,
                    Conditioning({"crossattn": torch.zeros(len(noise), 1, 1)}), None, {})
    return Run(schedule, predict, StandIn(lambda: noise.flip(-1))), noise * unit(schedule.levels()[0])


def of_each_step(config: Mapping, problems: Problems) -> Outcome:
    """Check that each step moves with the estimate that it asks for itself."""
    sampler = sampler_of(config, EDM)
    run, x = _beginning(sampler, problems, torch.float64)
    moved, state = replace(run, predict=replace(run.predict, by=1.0)), StepState()  # type: ignore[call-arg]
    for number, (now, then) in enumerate(pairwise(run.schedule.levels()), 1):
        (after, _, later), (other, _, _) = (sampler.step(x, now, then, one, state) for one in (run, moved))
        if not float((after - other).abs().max()) > LEAST:
            return Outcome(False, f"step {number} does not depend on the estimate that it asks for", "a step uses "
                           "estimates of steps before and not its own: take what run.predict(x, now, state) returns")
        x, state = after, later
    return Outcome(True, f"in all of {STEPS} steps")


@dataclass(frozen=True)
class Asking(Guided):
    """A guided estimate that remembers the levels that it was asked for."""

    asked: list[NoiseLevel] = field(default_factory=list)

    def __call__(self, x, noise, state=None):
        self.asked.append(noise)
        return super().__call__(x, noise, state)


def places(config: Mapping, problems: Problems) -> Outcome:
    """Check that each estimate is asked for with the training timestep of its level, and with an index in its step."""
    sampler = sampler_of(config, TABLE)
    run, x = _beginning(sampler, problems, torch.float64)
    run, state = replace(run, predict=Asking(*_fields(run.predict))), StepState()
    timesteps = {level.ratio: level.timestep for level in run.schedule.levels()}
    for number, (now, then) in enumerate(pairwise(run.schedule.levels()), 1):
        run.predict.asked.clear()
        x, _, state = sampler.step(x, now, then, run, state)
        for level in run.predict.asked:
            between = sampler.discretization.timestep_at(level.ratio)
            right = (between, timesteps.get(level.ratio, between))  # the schedule's own are whole numbers
            if level.timestep is None or min(abs(level.timestep - one) for one in right) > NEAR:
                return Outcome(False, f"step {number} gives the network timestep {level.timestep} where it is "
                               f"{between:.4g}", LEVEL)
            if not now.index <= level.index <= then.index:
                return Outcome(False, f"step {number} asks at index {level.index}, before {now.index} or after "
                               f"{then.index}", LEVEL)
    return Outcome(True, f"in all of {STEPS} steps")


def _fields(predict: Guided) -> tuple:
    return tuple(getattr(predict, one.name) for one in fields(Guided))


def precision(config: Mapping, problems: Problems) -> Outcome:
    """Check that steps compute in the dtype of their latents."""
    outs = []
    for dtype in (torch.float64, torch.float32):
        sampler = sampler_of(config, EDM)
        (run, x), state = _beginning(sampler, problems, dtype), StepState()
        for number, (now, then) in enumerate(pairwise(run.schedule.levels()), 1):
            x, denoised, state = sampler.step(x, now, then, run, state)
            if others := {x.dtype, denoised.dtype, *run.predict.dtypes} - {dtype}:
                return Outcome(False, f"step {number} makes {others.pop()} of {dtype}", "a step changes the dtype of "
                               "its latents: leave it as it is, and give run.predict the latents as they are")
        outs.append(x.double())
    return near(*outs, SINGLE, "float32 latents are rounded further: leave their dtype as it is inside a step too")
