"""Checks of how a sampler behaves: what it evaluates, keeps, changes and draws beside what its formula needs."""
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch

from benchmarks.checks.outcome import Outcome, near
from benchmarks.checks.problems import FROM_ZERO_SNR, AtRatios, Problems, run_of, sampler_of, unit
from benchmarks.exact import SHAPE, FiniteData, Gaussian
from sgm.conditioning import Conditioning
from sgm.parameterization import FLOW, VE, VP
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import FreshNoise

ALL = slice(None)  # rows of a batch
MANY, LONG = 5, 64  # rows and steps, of which a check asks for more than two and twelve
CLIPS = torch.randn(6, *SHAPE[1:], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
LARGE = (1, 13, 16, 4, 6)  # latents with the frames and channels of a released model
MODERATE = {**FROM_ZERO_SNR, "params": {"sigma_min": 0.2}}  # noise that a last step which stops short leaves


def conditions(value: float = 1.0, batch: int = SHAPE[0]) -> tuple[Mapping, Mapping]:
    """Return the conditional and the unconditional conditioning; rows of the conditional one differ in sign."""
    cond = torch.full((batch, 1, 1), value)
    cond[1:] *= -1
    concat = torch.ones(batch, 1, 1)  # of a control clip or an image, which a branch may leave out
    return {"crossattn": cond, "concat": concat}, {"crossattn": torch.zeros(batch, 1, 1), "concat": concat}


def solve(sampler: Sampler, denoiser=None, rows: slice = ALL, scale=None, problems: Problems | None = None,
          num_steps: int | None = None, mean: float = 1.0, batch: int = SHAPE[0]) -> torch.Tensor:
    """Run a sampler, on Gaussian data of this mean unless a denoiser is given, with a seed per row; return its latents.
    """
    noise = (problems or Problems()).noise((batch, *SHAPE[1:]))[rows]
    cond, uc = ({name: value[rows] for name, value in half.items()} for half in conditions(mean, batch))
    generators = [torch.Generator().manual_seed(i) for i in range(batch)][rows]
    denoiser = denoiser or Gaussian(sampler.discretization.parameterization)
    return run_of(sampler)(denoiser, noise, cond, uc, num_steps=num_steps, scale=scale, generator=generators)


def ends_at_clips(sampler: Sampler, problems: Problems, denoiser_type: type = FiniteData) -> Outcome:
    """Check that each row ends at a clip of the half that its conditioning selects."""
    out = solve(sampler, denoiser_type(sampler.discretization.parameterization, CLIPS), problems=problems, num_steps=25)
    distance, which = (out.flatten(1)[:, None] - CLIPS.flatten(1)).abs().amax(-1).min(dim=1)
    asked_for = (which < 3).tolist() == [True, False]
    return Outcome(asked_for and bool(distance.max() < 0.02), f"{float(distance.max()):.1e} from clips",
                   "the latents end beside the data: the last step has to arrive at sigma 0, and the first begins at "
                   "an infinite ratio; both need a step such as steps.euler" if asked_for else
                   "a row ends at a clip that was not asked for: the estimate or the noise of a step is wrong")


def evaluations(config: Mapping) -> Outcome:
    """Check `nfe`, the declared evaluations of the denoised estimate per step; the last step may take one."""
    sampler, denoiser = sampler_of(config), Gaussian(VE)
    solve(sampler, denoiser, scale=1)
    return Outcome(denoiser.calls in {12 * sampler.nfe, 11 * sampler.nfe + 1}, f"{denoiser.calls} in 12 steps",
                   f"nfe = {sampler.nfe} says {12 * sampler.nfe}, or {11 * sampler.nfe + 1} with one in the last step: "
                   "correct it, or look for a step that evaluates more or less often than the others")


def parameterizations(build: Callable[[], Sampler], problems: Problems, denoiser_type: type = Gaussian) -> Outcome:
    """Check that VE, VP and flow noise levels of the same signal-to-noise ratios give the same latents."""
    outs = []
    for parameterization in (VE, VP, FLOW):
        sampler = build()
        sampler.discretization = AtRatios(parameterization)
        outs.append(solve(sampler, denoiser_type(parameterization), problems=problems))
    return near(torch.cat([outs[0], outs[0]]), torch.cat(outs[1:]), 1e-8,
                "a factor alpha is missing: x = alpha x0 + sigma noise")


def rows_alone(build: Callable[[], Sampler], problems: Problems, denoiser=None) -> Outcome:
    """Check that a row of a batch of two and of five is what it is alone."""
    pairs = [(solve(build(), denoiser, problems=problems, batch=batch)[row],
              solve(build(), denoiser, rows=slice(row, row + 1), problems=problems, batch=batch)[0])
             for batch, row in ((SHAPE[0], 1), (MANY, 3))]
    return near(*(torch.stack(both) for both in zip(*pairs, strict=True)), 1e-8,
                "a row of a batch depends on its neighbours: take means and norms over each row alone")


def reproduces(sampler: Sampler, problems: Problems, denoiser=None) -> Outcome:
    """Check that two runs with the same seeds are the same, and that neither draws from a global random state."""
    before = _random_states()
    first, second = (solve(sampler, denoiser, problems=problems, num_steps=LONG) for _ in range(2))
    if _random_states() != before:
        return Outcome(False, "a global random state has changed", "numbers are drawn from torch, numpy or random "
                       "itself, which the seed of a video does not decide: draw noise by run.draw(now, then) alone")
    return near(first, second, 1e-15, "two runs with the same seeds differ: an attribute or a global keeps something "
                                      "of a run; keep it in the state, by state.with_history or a guider's memory")


def _random_states() -> tuple:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


@dataclass(frozen=True)
class Watched(Guided):
    """A guided estimate that remembers each one it made, with a copy, and counts them in the state's memory."""

    made: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __call__(self, x, noise, state=None):
        estimate, after = super().__call__(x, noise, state)
        self.made.append((estimate, estimate.clone()))
        return estimate, replace(after, memory=(state.memory or 0) + 1)


def beginning(sampler: Sampler, problems: Problems, seed: int) -> tuple[Run, torch.Tensor]:
    """Return a run of one row whose estimates are watched, and its first latents."""
    schedule = sampler.schedule()
    noise = problems.noise((2, 2, 3, 2, 2))[seed:seed + 1]
    guided = Watched(problems.gaussian(schedule.parameterization), sampler.guider,
                     Conditioning({"crossattn": torch.zeros(1, 1, 1)}), None, {})
    run = Run(schedule, guided, FreshNoise(noise, torch.Generator().manual_seed(seed)))
    return run, noise * unit(schedule.levels()[0])


def leaves_alone(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that steps change neither latents nor estimates in place, return an estimate, and pass the state on."""
    run, x = beginning(sampler, problems, 0)
    state, wrong = StepState(), ""
    for now, then in pairwise(run.schedule.levels()):
        before, made = x.clone(), len(run.predict.made)
        after, denoised, state = sampler.step(x, now, then, run, state)
        if not torch.equal(before, x):
            wrong = "a step changes its latents x in place: make new ones, as x * factor does and x.mul_(factor) not"
        elif not torch.equal(denoised, run.predict.made[made][1]):
            wrong = "the second value that a step returns is not its first denoised estimate: return that at `now`"
        x = after
    if not all(torch.equal(one, copy) for one, copy in run.predict.made):
        wrong = "a step changes a denoised estimate in place: make a new one"
    elif not wrong and (counted := _counted(state, sampler)) != len(run.predict.made):
        wrong = (f"the state counts {counted} of {len(run.predict.made)} evaluations: give each predict the state "
                 "that the one before returned, and return the last one")
    return Outcome(not wrong, "x, estimates and state are as they should be" if not wrong else "they are not", wrong)


def _counted(state: StepState, sampler: Sampler) -> int:
    """Return how many evaluations a state has counted; a sampler that makes steps again forgets some memory with them.
    """
    return state.passes if sampler.adaptive else min(state.passes, state.memory or 0)


def runs_apart(sampler: Sampler, problems: Problems, begin: Callable | None = None) -> Outcome:
    """Check that two runs whose steps alternate are what each is alone; `begin` makes a run, `beginning` by default."""
    begin = begin or beginning
    alone = [_steps(sampler, [begin(sampler, problems, seed)])[0] for seed in (0, 1)]
    together = _steps(sampler, [begin(sampler, problems, seed) for seed in (0, 1)])
    return near(torch.cat(alone), torch.cat(together), 1e-12, "a run depends on another beside it: an attribute or a "
                "global keeps something of a run; keep it in the state, by state.with_history or a guider's memory")


def elements_alike(config: Mapping, problems: Problems) -> Outcome:
    """Check that an element of the latents is what it is in latents of another size, with the same noise."""
    outs = []
    for shape in (LARGE, (-1, *SHAPE[1:])):
        sampler, noise = sampler_of(config), problems.noise(LARGE).view(shape)
        denoiser = Gaussian(sampler.discretization.parameterization)
        outs.append(run_of(sampler)(denoiser, noise, {"crossattn": torch.zeros(len(noise), 1, 1)},
                                    generator=problems.generator()).flatten())
    return near(*outs, 1e-8, f"an element of latents of size {LARGE} is another than in smaller ones: look for a "
                "number of frames, channels or rows, or for a mean or norm over some of them")


def _steps(sampler: Sampler, runs: list[tuple[Run, torch.Tensor]]) -> list[torch.Tensor]:
    """Take the steps of all runs in turn; return their latents."""
    xs, states = [x for _, x in runs], [StepState()] * len(runs)
    for now, then in pairwise(runs[0][0].schedule.levels()):
        for i, (run, _) in enumerate(runs):
            xs[i], _, states[i] = sampler.step(xs[i], now, then, run, states[i])
    return xs
