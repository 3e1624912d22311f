"""Checks of samplers that add noise: the orders of single runs and of the distribution, and what the bias tends to.

The distribution's error is computed, not estimated from draws, on Gaussian data; on a mixture, whose denoiser is not
linear, the weight of a component is counted among many samples.
"""
import math
from collections.abc import Mapping

import torch

from benchmarks.checks.fits import limit_of, local_orders, order_of
from benchmarks.checks.orders import SWITCHES, UNEVEN, as_declared
from benchmarks.checks.outcome import Outcome
from benchmarks.checks.problems import EDM, TO_FIXED_NOISE, Problems, Uneven, run_of, sampler_of
from benchmarks.exact import WithoutLastJump
from benchmarks.exact_moments import bias, moments, path_runs, responses
from sgm.sampling import Sampler

PATH_STEPS = (64, 128, 256, 512)
BIAS_STEPS = (32, 64, 128, 256, 512, 1024)
WEIGHT_STEPS, WEIGHT_ROWS = 100, (1, 4, 4, 64, 64)
SURE, LEAST_LIMIT = 3.0, 1e-6  # times the uncertainty of the bias's limit, and what is left of it by rounding
DEVIATIONS = 4.0  # standard errors
AMOUNTS = {"eta": (0.5, 1.0), "tau": (0.5, 1.0), "s_churn": (2.0, 4.0)}  # values of parameters with unlike noise
BOUNDS = {"s_tmin": 0.5, "s_tmax": 5.0}  # of sigma / alpha, where churn may act
CHECKED = ("s_noise", *AMOUNTS, *BOUNDS)  # parameters that have checks of their own here
SIZES, ROUNDED = (1 / 3, -8.0), 1e-9  # of noise that one bit cannot hold or a limit would cut; a part of a step
SMALL_NOISE = 0.2  # of s_noise, so that no bound of a sampler's own has an effect
AMOUNT = "a step to s' that keeps the share k of the noise adds s' sqrt(1 - k^2), and stages of a step share its noise"


def without_last_jump(config: Mapping, discretization: Mapping) -> Sampler:
    """Return the sampler without its last step."""
    sampler = sampler_of(config, discretization)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    return sampler


def strong_order(config: Mapping, problems: Problems) -> Outcome:
    """Check the order with which runs of more and more steps on one Brownian path approach each other."""
    sampler = without_last_jump(config, EDM)
    outs = path_runs(sampler, PATH_STEPS, problems.noise((1, 4, 3, 8, 8)), problems.gaussian, problems.generator())
    found = local_orders([fine - coarse for coarse, fine in zip(outs, outs[1:], strict=False)])[-1]
    return as_declared(found, sampler.strong_order, "strong_order",
                       "draw the noise of a step by run.draw(now, then) of its own levels, and use it as drawn")


def distribution(config: Mapping, problems: Problems, discretization: Mapping, uneven: bool = False) -> Outcome:
    """Check the order with which mean and covariance approach those of Gaussian data, and that they tend to them."""
    sampler = without_last_jump(config, discretization)
    if uneven:
        sampler.discretization = Uneven(sampler.discretization)
    declared, errors = sampler.weak_order, [bias(sampler, n, *problems.moments) for n in BIAS_STEPS]
    limit, sure = limit_of(errors, declared or 1)
    left = limit > SURE * sure + LEAST_LIMIT and limit > 0.1 * float(errors[-1].norm())
    order = order_of(errors, declared)
    found = f"{float(errors[-1].norm()):.1e} with {BIAS_STEPS[-1]} steps, tends to {limit:.1e}"
    if left:
        variance = float(errors[-1][-1])
        amount = "much" if variance > 0 else "little"
        return Outcome(False, found, f"mean and covariance do not tend to the data's: probably too {amount} noise is "
                                     f"added; {AMOUNT}")
    outcome = as_declared(order, declared, "weak_order", f"{UNEVEN if uneven else AMOUNT}; or correct the declaration")
    return outcome._replace(found=f"{outcome.found} ({found})")


def same_on_a_path(config: Mapping, problems: Problems) -> Outcome:
    """Check that noise of a path leads to the distribution of fresh noise: what is drawn belongs to its own interval.
    """
    sampler = without_last_jump(config, EDM)
    fresh, path = (torch.cat([part.flatten() for part in moments(sampler, 24, *problems.moments, path=path)])
                   for path in (False, True))
    apart = float((fresh - path).abs().max())
    return Outcome(apart < 1e-8, f"{apart:.1e} apart", "noise: path leads to another distribution: noise of the same "
                   "or an overlapping interval is drawn twice and added up; draw it once, in parts that do not "
                   "overlap, or use run.other(number)")


def used_as_drawn(config: Mapping) -> Outcome:
    """Check that steps are linear in the noise that they draw, whatever its size: nothing limits or rounds it."""
    unit, *others = (responses(sampler_of(config), 12, size) for size in (1.0, *SIZES))
    apart = max(float((found / size - unit).abs().max()) for found, size in zip(others, SIZES, strict=True))
    return Outcome(apart < ROUNDED * float(unit.abs().max()), f"steps differ by {apart:.1e} for each unit of it",
                   "noise is limited, rounded or made into other numbers before it is added: use what run.draw "
                   "returns as it is")


def noise_parameter(config: Mapping) -> Outcome:
    """Check that the noise of a step is proportional to `s_noise`."""
    small, large = (responses(sampler_of(config, s_noise=amount), 12) for amount in (SMALL_NOISE, 2 * SMALL_NOISE))
    times = float(large.norm() / small.norm()) if float(small.norm()) > 0 else math.inf
    return Outcome(abs(times - 2) < 1e-6, f"{times:.3g} times the noise for twice the s_noise",
                   "multiply what run.draw returns by self.s_noise, once")


def amount_parameter(config: Mapping, name: str) -> Outcome:
    """Check that a parameter changes how much noise the steps add."""
    moved = [float(responses(sampler_of(config, **{name: amount}), 12).norm()) for amount in AMOUNTS[name]]
    found = " and ".join(f"{by:.3g} with {amount:g}" for by, amount in zip(moved, AMOUNTS[name], strict=True))
    return Outcome(moved[1] > moved[0] + LEAST_LIMIT, f"unit noise moves steps by {found}",
                   f"{name} is not used, or less noise follows from more of it")


def churn_bounds(config: Mapping) -> Outcome:
    """Check that churn acts at the levels from s_tmin to s_tmax in sigma / alpha, and at no other."""
    wrong, count = [], 0
    for discretization in (EDM, TO_FIXED_NOISE):
        def built(discretization=discretization, **given) -> Sampler:
            return sampler_of(config, discretization, **given)

        none, everywhere, between = (responses(built(**given), 12) for given in (
            {"s_churn": 0.0}, {"s_tmin": 0.0, "s_tmax": math.inf}, BOUNDS))
        ratios = torch.tensor([level.ratio for level in built().schedule().levels()[:-1]])
        inside = (BOUNDS["s_tmin"] <= ratios) & (ratios <= BOUNDS["s_tmax"])
        wrong += ratios[(between - torch.where(inside, everywhere, none)).abs() > LEAST_LIMIT].tolist()
        count += int(inside.sum())
    return Outcome(not wrong, f"of 24 steps {count} begin between" if not wrong else
                   f"not at sigma / alpha {', '.join(f'{ratio:.3g}' for ratio in wrong)}", "with s_tmin "
                   f"{BOUNDS['s_tmin']} and s_tmax {BOUNDS['s_tmax']} a step has to be churned if now.ratio is between")


def never(sampler: Sampler) -> Outcome:
    """Report a sampler that declares its orders with noise and adds none."""
    return Outcome(False, "none", f"weak_order = {sampler.weak_order} is declared, and what it draws moves no step, "
                   f"whatever {', '.join(SWITCHES)} are: draw it by run.draw(now, then), or do not declare it")


def weight_of_component(config: Mapping, problems: Problems) -> Outcome:
    """Check how many samples of a mixture fall to its lighter component, extrapolated from two numbers of steps."""
    sampler, generator = sampler_of(config, EDM), problems.generator()
    denoiser, noise = problems.mixture(sampler.discretization.parameterization), problems.noise(WEIGHT_ROWS)
    few, many = (float((run_of(sampler)(denoiser, noise, {}, num_steps=n, generator=generator) < 0).double().mean())
                 for n in (WEIGHT_STEPS, 2 * WEIGHT_STEPS))
    growth = 2 ** (sampler.weak_order or 1)
    found, exact = (growth * many - few) / (growth - 1), denoiser.share_below(0.0)
    error = math.sqrt(exact * (1 - exact) / noise.numel() * (growth**2 + 1)) / (growth - 1)
    return Outcome(abs(found - exact) < DEVIATIONS * error, f"{found:.4f} of {exact:.4f}, standard error {error:.4f}",
                   f"the samples are spread wrongly over the modes: {AMOUNT}, and less and less in a step as there are "
                   "more")
