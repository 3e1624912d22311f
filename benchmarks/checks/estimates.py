"""Checks of what a sampler makes of its denoised estimates: guided ones, those of each step, and their precision."""
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from benchmarks.checks.manners import solve
from benchmarks.checks.outcome import Outcome, near
from benchmarks.checks.problems import EDM, Problems, sampler_of, unit
from sgm.conditioning import Conditioning
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import StandIn

GUIDED: Mapping = {"target": "sgm.guiders.VanillaCFG", "params": {"scale": 3.0}}
LEAST = 1e-9  # by which a step moves with its own estimate
SINGLE = 1e-4  # by which float32 may move latents of deviation 1; half precision moves them further
STEPS, SHAPE = 12, (2, 2, 3, 2, 2)


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
