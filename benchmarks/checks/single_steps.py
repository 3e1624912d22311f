"""Checks of single steps, each taken from the exact flow: where among the levels one loses its order.

What a few steps lose can be too little to change the order of the whole run.
"""
import math
import statistics
from collections.abc import Mapping
from itertools import pairwise

import torch

from benchmarks.checks.fits import ROUNDING
from benchmarks.checks.orders import SHAPE, TOLERANCE, UNEVEN
from benchmarks.checks.outcome import Outcome
from benchmarks.checks.problems import BELOW_HIGH_NOISE, EDM, Problems, Uneven, sampler_of, unit
from benchmarks.exact import WithoutLastJump
from sgm.conditioning import Conditioning
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import FreshNoise

STEPS, BESIDE, STANDS_OUT = 128, 8, 6.0
START = 5  # steps with which a multistep method may begin otherwise


def steps_alike(config: Mapping, problems: Problems) -> Outcome:
    """Check that no step, taken from the exact flow, has an error far above those of the steps beside it."""
    sampler = sampler_of(config, BELOW_HIGH_NOISE)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    errors, first = local_errors(sampler, problems, STEPS)
    worst, where = 0.0, 0
    for i in range(first, len(errors)):
        around = errors[max(first, i - BESIDE):i] + errors[i + 1:i + 1 + BESIDE]
        times = errors[i] / max(statistics.median(around), ROUNDING / len(errors))
        worst, where = max((worst, where), (times, i))
    return Outcome(worst < STANDS_OUT, f"at most {worst:.1f} times the error of those beside it",
                   f"step {where + 1} of {len(errors)} is made in another way than the others: look for a condition on "
                   "the index or the level")


def same_everywhere(config: Mapping, problems: Problems) -> Outcome:
    """Check that the error of single steps falls with the same order at all noise levels, from the highest ones on."""
    sampler = sampler_of(config, EDM)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    coarse, fine = (local_errors(sampler, problems, n)[0] for n in (STEPS // 2, STEPS))
    starts = range(BESIDE, len(coarse), BESIDE)
    found = [_order(coarse[i:i + BESIDE], fine[2 * i:2 * (i + BESIDE)]) for i in starts]
    usual, (lowest, where) = statistics.median(found), min(zip(found, starts, strict=True))
    levels = sampler.schedule(STEPS // 2).levels()
    between = [levels[min(i, len(levels) - 1)].ratio for i in (where, where + BESIDE)]
    return Outcome(lowest > usual - 2 * TOLERANCE, f"{lowest:.2f} to {max(found):.2f}",
                   f"from sigma {between[0]:.3g} to {between[1]:.3g} steps are of order {lowest:.2f}, elsewhere of "
                   f"{usual:.2f}: look for a condition on the level or the index under which less is done")


def uneven_steps(config: Mapping, problems: Problems) -> Outcome:
    """Check that single steps lose no order where every second one is twice as wide.

    The whole run may keep its order nevertheless: errors of steps that are wide and narrow in turn can cancel.
    """
    even, uneven = (sampler_of(config, BELOW_HIGH_NOISE) for _ in range(2))
    even.discretization = WithoutLastJump(even.discretization)
    uneven.discretization = Uneven(even.discretization)
    orders = [_order(*(local_errors(sampler, problems, n)[0][START:] for n in (STEPS // 2, STEPS)))
              for sampler in (even, uneven)]
    return Outcome(orders[1] > orders[0] - uneven_loss(even) - 2 * TOLERANCE,
                   f"an error of order {orders[1]:.2f}, and on even steps of {orders[0]:.2f}", UNEVEN)


def uneven_loss(sampler: Sampler) -> float:
    """Return the order that a method is declared to lose where steps are of unlike width."""
    declared = sampler.convergence_order or 0
    return declared - getattr(sampler, "order_on_uneven_steps", declared)


def _order(coarse: list[float], fine: list[float]) -> float:
    """Return the order with which the errors of single steps fall as there are twice as many."""
    sizes = [math.sqrt(statistics.fmean(error**2 for error in errors)) for errors in (coarse, fine)]
    return math.log2(sizes[0] / sizes[1]) if min(sizes) > ROUNDING / 100 else math.inf


def local_errors(sampler: Sampler, problems: Problems, steps: int) -> tuple[list[float], int]:
    """Return the error of each single step from the exact flow, and the first that is no start of a multistep method.
    """
    schedule = sampler.schedule(steps)
    levels, data = schedule.levels(), problems.gaussian(schedule.parameterization)
    start, state, errors, kept = problems.noise(SHAPE) * unit(levels[0]), StepState(), [], False
    run = Run(schedule, Guided(data, sampler.guider, Conditioning({"crossattn": torch.zeros(1, 1, 1)}), None, {}),
              FreshNoise(start, problems.generator()))
    for now, then in pairwise(levels):
        x, _, state = sampler.step(data.flow(start, levels[0], now), now, then, run, state)
        errors.append(float((x / then.alpha - data.flow(start, levels[0], then) / then.alpha).norm()))
        kept = kept or state.history is not None
    return errors, START if kept else 0
