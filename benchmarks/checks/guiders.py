"""Checks of guiders, used by Heun's method."""
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from benchmarks.checks.manners import ends_at_clips, near, reproduces, rows_alone, solve
from benchmarks.checks.outcome import Check, Outcome
from benchmarks.checks.problems import EDM, FROM_ZERO_SNR, Problems, sampler_of
from benchmarks.exact import SHAPE, FiniteData, Gaussian
from sgm.guiders.base import Estimates, Evaluation
from sgm.parameterization import VE
from sgm.sampling import Sampler

HEUN = {"target": "sgm.sampling.HeunEDMSampler"}
ALMOST_ONE = 1 - 1e-6


class Timed:
    """A denoiser with training timesteps, which some schedules of a guider ask for."""

    def timestep_at(self, ratio: float) -> float:
        """Return the timestep of sigma / alpha, of 1000."""
        return 999 * 2 / math.pi * math.atan(ratio)


class Responsive(Timed, Gaussian):
    """Gaussian data whose estimate is smaller where a branch gives the network additional inputs."""

    def __call__(self, x, level, cond, idx=None, **inputs):
        return super().__call__(x, level, cond, idx) * (0.5 if inputs else 1.0)


class TimedClips(Timed, FiniteData):
    """A finite set of clips, whatever additional inputs a branch gives."""


def checks_of_guider(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a guider."""
    def build(discretization: Mapping = EDM, **given) -> Sampler:
        return sampler_of(HEUN, discretization, {**config, "params": {**config.get("params", {}), **given}})

    guider = build().guider
    yield "passes as declared", lambda: passes(build())
    yield "guidance changes the result", lambda: acts(build(), problems)
    yield "guidance leads towards cond", lambda: leads_to_cond(build(), problems)
    if guider.continuous_at_one:
        yield "near scale 1 it is near cond", lambda: _run_of(build(scale=ALMOST_ONE), problems, 1e-3, (
            "a scale of nearly 1 is not nearly the conditional estimate: push has to return that as its second value, "
            "and the scale must be used as it is given; continuous_at_one = False says that it is meant so"))
    yield "the scale of a call is that of the parameters", lambda: near(
        solve(build(), Responsive(VE), scale=0.5, problems=problems),
        solve(build(scale=0.5), Responsive(VE), problems=problems), 1e-12,
        "the scale that a run is given replaces the configured one: scale_at(noise, scale) has to use its `scale`")
    yield "scale 1 is the conditional run", lambda: _run_of(
        build(), problems, 1e-15, "scale_at has to return 1 for scale 1", scale=1)
    yield "leaves estimates alone", lambda: leaves_alone(build(), problems)
    yield "a row does not depend on its neighbours", lambda: rows_alone(build, problems, Responsive(VE))
    yield "seeds reproduce", lambda: reproduces(build(), problems, Responsive(VE))
    yield "from zero SNR to a clip of a finite set", lambda: ends_at_clips(build(FROM_ZERO_SNR), problems, TimedClips)


def passes(sampler: Sampler) -> Outcome:
    """Check that no more branches are evaluated than the guider declares."""
    denoiser = Responsive(VE)
    solve(sampler, denoiser)
    found, most = denoiser.rows / SHAPE[0] / (2 * 12 - 1), len(sampler.guider.passes)
    return Outcome(found <= most, f"{found:.2f} an evaluation, declared up to {most}",
                   "passes_at returns branches that are not in passes: list them all there")


def acts(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that guidance changes the result."""
    with_it, without = (solve(sampler, Responsive(VE), scale=scale, problems=problems) for scale in (None, 1))
    apart = float((with_it - without).abs().max())
    return Outcome(apart > 1e-6, f"{apart:.1e} from the conditional run",
                   "guidance does nothing: push returns the same estimate twice, or the scale is 1 everywhere")


def _run_of(guided: Sampler, problems: Problems, tolerance: float, remedy: str, **given) -> Outcome:
    """Compare a guided run with the conditional one."""
    alone = solve(sampler_of(HEUN), Responsive(VE), scale=1, problems=problems)
    return near(solve(guided, Responsive(VE), problems=problems, **given), alone, tolerance, remedy)


def estimates_at(sampler: Sampler, problems: Problems) -> tuple[Estimates, Evaluation] | None:
    """Return random estimates of all branches at the first level at which the guider acts; None if it never does."""
    levels = sampler.schedule().levels()
    noise = problems.noise((len(sampler.guider.passes) + 1, 2, 2, 3, 2, 2))
    timed = [Responsive(VE).timestep_at(level.ratio) for level in levels]
    for level, then, timestep in zip(levels[:-1], levels[1:], timed[:-1], strict=True):
        at = Evaluation(noise[0], level, sampler.guider.scale_at(replace(level, timestep=timestep)), then)
        branches = tuple(sampler.guider.passes_at(level))
        if at.scale != 1 and len(branches) > 1:
            return Estimates(branches, list(noise[1:1 + len(branches)].unbind(0))), at
    return None


def leads_to_cond(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that a larger scale leads further away from the other branches and towards the conditional one."""
    found = estimates_at(sampler, problems)
    if found is None:
        return Outcome(False, "it acts at none of 12 levels", "passes_at returns cond alone, or the scale is 1")
    estimates, at = found
    others = [estimates[one.name] for one in estimates.passes if one.name != "cond"]
    away = estimates["cond"] - torch.stack(others).mean(0)
    outs = [sampler.guider.guide(estimates, Evaluation(at.x, at.noise, scale, at.then))[0]
            for scale in (at.scale, 1.1 * at.scale)]
    share = float(((outs[1] - outs[0]) * away).sum() / away.square().sum() / (0.1 * at.scale))
    return Outcome(share > 0, f"a scale larger by 1 adds {share:.2f} of cond minus the others",
                   "a larger scale leads away from the conditional estimate: push has to return the pair (negative, "
                   "positive), what is led away from first")


def leaves_alone(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that the guider changes neither the estimates nor the latents that it is given."""
    found = estimates_at(sampler, problems)
    if found is None:
        return Outcome(True, "nothing to change")
    estimates, at = found
    before = [tensor.clone() for tensor in (*estimates, at.x)]
    sampler.guider.guide(estimates, at)
    same = all(torch.equal(one, other) for one, other in zip(before, (*estimates, at.x), strict=True))
    return Outcome(same, "they are as they were" if same else "they have changed",
                   "push changes an estimate or at.x in place: make new tensors, as a * b does and a.mul_(b) not")
