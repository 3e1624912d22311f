"""Checks of solvers without noise: the order of convergence, and that all steps are made alike."""
import math
import statistics
from collections.abc import Mapping
from itertools import pairwise

import torch

from benchmarks.checks.fits import ROUNDING, order_of
from benchmarks.checks.outcome import Outcome
from benchmarks.checks.problems import BELOW_HIGH_NOISE, Problems, Uneven, has_parameter, run_of, sampler_of, unit
from benchmarks.exact import WithoutLastJump
from benchmarks.exact_moments import count_draws
from sgm.conditioning import Conditioning
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import FreshNoise

TOLERANCE = 0.3  # of a measured order
STEPS = (32, 64, 128, 256, 512, 1024)
SHAPE = (1, 2, 3, 2, 2)
SWITCHES = ("eta", "s_churn", "s_noise", "tau")  # parameters that are 0 where a sampler adds no noise
STEPS_ALIKE, BESIDE, STANDS_OUT = 128, 8, 6.0
START = 5  # steps with which a multistep method may begin otherwise
UNEVEN = ("steps of unlike width need weights that follow from the widths, such as a ratio taken the right way round; "
          "a method whose weights are those of equal steps declares order_on_uneven_steps")
CAUSES = "look at the weights and levels of its stages, or correct the declaration"


def as_declared(found: float, declared: float | None, attribute: str, causes: str = CAUSES) -> Outcome:
    """Return whether a measured order is the declared one within `TOLERANCE`."""
    if declared is None:
        return Outcome(False, f"{found:.2f}", f"the class declares no {attribute}: write {attribute} = "
                                              f"{max(round(found), 1)}")
    lower = "more slowly" if found < declared else "faster"
    return Outcome(abs(found - declared) <= TOLERANCE, f"{found:.2f}, declared {declared}",
                   f"the error falls {lower} than {attribute} = {declared} says: {causes}")


def quiet(config: Mapping) -> Mapping | None:
    """Return the configuration with its noise switched off; None if no parameter of `SWITCHES` does that."""
    sampler = sampler_of(config)
    for given in ({}, *({name: 0.0} for name in SWITCHES if has_parameter(sampler, name))):
        params = {**config.get("params", {}), **given}
        if count_draws(sampler_of({**config, "params": params}), 12) == 0:
            return {**config, "params": params}
    return None


def flow_errors(sampler: Sampler, problems: Problems) -> list[torch.Tensor]:
    """Return for each of `STEPS` the differences from the exact flows of the Gaussian data and of the mixture."""
    found = []
    for n in STEPS:
        levels, parts = sampler.schedule(n).levels(), []
        for data in (problems.gaussian, problems.mixture):
            denoiser, noise = data(sampler.discretization.parameterization), problems.noise(SHAPE)
            out = run_of(sampler)(denoiser, noise, {"crossattn": torch.zeros(1, 1, 1)}, num_steps=n,
                                  generator=problems.generator())
            start = noise * unit(levels[0])
            parts.append((out - denoiser.flow(start, levels[0], levels[-1])).flatten())
        found.append(torch.cat(parts))
    return found


def convergence_order(config: Mapping, problems: Problems, discretization: Mapping, uneven: bool = False) -> Outcome:
    """Check the order with which runs approach the exact flows as the number of steps doubles."""
    sampler = sampler_of(config, discretization)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    declared, attribute = sampler.convergence_order, "convergence_order"
    if uneven:
        sampler.discretization = Uneven(sampler.discretization)
        declared, attribute = getattr(sampler, "order_on_uneven_steps", declared), "order_on_uneven_steps"
    found = order_of(flow_errors(sampler, problems), declared)
    return as_declared(found, declared, attribute, UNEVEN if uneven else CAUSES)


def steps_alike(config: Mapping, problems: Problems) -> Outcome:
    """Check that no step, taken from the exact flow, has an error far above those of the steps beside it."""
    sampler = sampler_of(config, BELOW_HIGH_NOISE)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    errors, first = local_errors(sampler, problems, STEPS_ALIKE)
    worst, where = 0.0, 0
    for i in range(first, len(errors)):
        around = errors[max(first, i - BESIDE):i] + errors[i + 1:i + 1 + BESIDE]
        times = errors[i] / max(statistics.median(around), ROUNDING / len(errors))
        worst, where = max((worst, where), (times, i))
    return Outcome(worst < STANDS_OUT, f"at most {worst:.1f} times the error of those beside it",
                   f"step {where + 1} of {len(errors)} is made in another way than the others: look for a condition on "
                   "the index or the level")


def uneven_steps(config: Mapping, problems: Problems) -> Outcome:
    """Check that single steps lose no order where every second one is twice as wide.

    The whole run may keep its order nevertheless: errors of steps that are wide and narrow in turn can cancel.
    """
    even, uneven = (sampler_of(config, BELOW_HIGH_NOISE) for _ in range(2))
    even.discretization = WithoutLastJump(even.discretization)
    uneven.discretization = Uneven(even.discretization)
    orders = [single_step_order(sampler, problems) for sampler in (even, uneven)]
    allowed = (even.convergence_order or 0) - getattr(even, "order_on_uneven_steps", even.convergence_order or 0)
    return Outcome(orders[1] > orders[0] - allowed - 2 * TOLERANCE,
                   f"an error of order {orders[1]:.2f}, and on even steps of {orders[0]:.2f}", UNEVEN)


def single_step_order(sampler: Sampler, problems: Problems) -> float:
    """Return the order with which the errors of single steps from the exact flow fall."""
    sizes = []
    for n in (STEPS_ALIKE // 2, STEPS_ALIKE):
        errors, _ = local_errors(sampler, problems, n)
        sizes.append(math.sqrt(statistics.fmean(error**2 for error in errors[START:])))
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
