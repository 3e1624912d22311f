"""Checks of what a guider makes of the estimates of its branches, at single levels."""
import math
from dataclasses import replace
from itertools import pairwise

import torch

from benchmarks.checks.outcome import Outcome, near
from benchmarks.checks.problems import Problems
from benchmarks.exact import Gaussian
from common.tensors import append_dims
from sgm.guiders.base import Estimates, Evaluation
from sgm.sampling import Sampler

Point = tuple[Estimates, Evaluation]
EXACT = 1e-9  # of a share, by rounding
COARSE, FINE, SAME = 1e-2, 1e-9, 0.05  # changes of estimates, and a part of what they make of the guided one


class Timed:
    """A denoiser with training timesteps, which some schedules of a guider ask for."""

    def timestep_at(self, ratio: float) -> float:
        """Return the timestep of sigma / alpha, of 1000."""
        return 999 * 2 / math.pi * math.atan(ratio)


class Responsive(Timed, Gaussian):
    """Gaussian data whose estimate is smaller where a branch gives the network additional inputs or zeros for some."""

    def __call__(self, x, level, cond, idx=None, **inputs):
        given = append_dims(cond.get("concat", torch.ones(len(x), 1, 1)).mean(dim=(1, 2)).to(x), x.ndim)
        return super().__call__(x, level, cond, idx) * (0.5 if inputs else 1.0) * (1 + given) / 2


def points(sampler: Sampler, problems: Problems) -> list[Point]:
    """Return random estimates of the branches at each level that is guided."""
    noise, found = problems.noise((len(sampler.guider.passes) + 1, 2, 2, 3, 2, 2)), []
    for level, then in pairwise(sampler.schedule().levels()):
        timed = replace(level, timestep=Responsive().timestep_at(level.ratio))
        at = Evaluation(noise[0], level, sampler.guider.scale_at(timed), then)
        branches = tuple(sampler.guider.passes_at(level))
        if at.scale != 1 and len(branches) > 1:
            found.append((Estimates(branches, list(noise[1:1 + len(branches)].unbind(0))), at))
    return found


def estimates_at(sampler: Sampler, problems: Problems) -> Point | None:
    """Return random estimates of the branches at the first level with the most of them; None if it never guides."""
    return max(points(sampler, problems), key=lambda point: len(point[0]), default=None)


def rescales(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that with `rescale` 1 each row has the standard deviation of its conditional estimate."""
    found = estimates_at(sampler, problems)
    if found is None:
        return Outcome(True, "it acts at none of 12 levels")
    estimates, at = found
    deviations = [x.flatten(1).std(dim=1) for x in (sampler.guider.guide(estimates, at)[0], estimates["cond"])]
    return near(*deviations, 1e-8, "rescale has no effect: leave `guide` to Guider, and define push")


def leads_to_cond(sampler: Sampler, problems: Problems) -> Outcome:
    """Check that a larger scale leads further away from the other branches and towards the conditional one, at all
    levels that are guided."""
    found = points(sampler, problems)
    if not found:
        return Outcome(False, "it acts at none of 12 levels", "passes_at returns cond alone, or the scale is 1")
    shares, most = [_share(sampler, *point) for point in found], max(len(estimates) for estimates, _ in found)
    lowest, highest = min(shares), max(shares)
    between = f"{lowest:.2f}" if highest - lowest < 0.005 else f"{lowest:.2f} to {highest:.2f}"
    # With fewer branches a guider may have another scale than this one, as skip-layer guidance does.
    wrong = [at.noise.ratio for share, (estimates, at) in zip(shares, found, strict=True)
             if share < -EXACT or share < EXACT and len(estimates) == most]
    return Outcome(not wrong, f"a scale larger by 1 adds {between} of cond minus the others",
                   f"at sigma / alpha {', '.join(f'{ratio:.3g}' for ratio in wrong)} a larger scale leads away from "
                   "the conditional estimate, or nowhere: push has to return the pair (negative, positive), what is "
                   "led away from first")


def _share(sampler: Sampler, estimates: Estimates, at: Evaluation) -> float:
    """Return how much of cond minus the mean of the others the guided estimate gains with a scale larger by 1."""
    others = [estimates[one.name] for one in estimates.passes if one.name != "cond"]
    away = estimates["cond"] - torch.stack(others).mean(0)
    outs = [sampler.guider.guide(estimates, Evaluation(at.x, at.noise, scale, at.then))[0]
            for scale in (at.scale, 1.1 * at.scale)]
    return float(((outs[1] - outs[0]) * away).sum() / away.square().sum() / (0.1 * at.scale))


def precision(sampler: Sampler, problems: Problems, smooth: bool) -> Outcome:
    """Check that the guided estimate has the dtype of the estimates and, where it is smooth, their precision: a tiny
    change of them counts as much, for its size, as a small one."""
    found = estimates_at(sampler, problems)
    if found is None:
        return Outcome(True, "nothing to guide")
    estimates, at = found
    single = Estimates(estimates.passes, [one.float() for one in estimates])
    dtype = sampler.guider.guide(single, replace(at, x=at.x.float()))[0].dtype
    double = sampler.guider.guide(estimates, at)[0].dtype
    if (dtype, double) != (torch.float32, torch.float64):
        return Outcome(False, f"{dtype} of torch.float32, {double} of torch.float64", "leave the dtype of estimates as "
                       "it is")
    coarse, fine = (_slope(sampler, estimates, at, size) for size in (COARSE, FINE))
    apart = float((coarse - fine).abs().max() / fine.abs().max().clamp(min=FINE)) if smooth else 0.0
    return Outcome(apart < SAME, "that of the estimates" if apart < SAME else f"{apart:.1e} of a tiny change is lost",
                   "estimates are rounded further: leave their dtype as it is inside push too")


def _slope(sampler: Sampler, estimates: Estimates, at: Evaluation, size: float) -> torch.Tensor:
    """Return the change of the guided estimate, for each unit of a change of the estimates by `size`."""
    outs = []
    for sign in (1, -1):
        moved = [one + sign * size * one.flip(-1) for one in estimates]
        outs.append(sampler.guider.guide(Estimates(estimates.passes, moved), at)[0])
    return (outs[0] - outs[1]) / (2 * size)


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
