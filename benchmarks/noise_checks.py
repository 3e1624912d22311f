"""Checks of samplers that add noise: the orders of single runs and of the distribution, and what the bias tends to.

The distribution's error is computed, not estimated from draws, on Gaussian data; on a mixture, whose denoiser is not
linear, the weight of a component is counted among many samples.
"""
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.exact import Mixture, WithoutLastJump, bias, path_differences
from sgm.sampling import Sampler

TOLERANCE = 0.3  # of a measured order
LARGEST_LIMIT = 0.01  # of the bias, where variances are up to 1
PATH_STEPS = (64, 128, 256, 512)
BIAS_STEPS = (324, 486, 729)
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.4], [0.4, 0.3]], dtype=torch.float64)
WEIGHT, WEIGHT_TOLERANCE, WEIGHT_STEPS = 0.3, 0.015, 200

Build = Callable[[Mapping], Sampler]


def slope(steps, errors) -> float:
    """Return minus the fitted slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def as_declared(found: float, declared: float | None, attribute: str) -> tuple[bool, str]:
    """Return whether a measured order is the declared one within `TOLERANCE`, and both as text."""
    if declared is None:
        return False, f"{found:.2f}, and the class declares no {attribute}: write {attribute} = {max(round(found), 1)}"
    return abs(found - declared) <= TOLERANCE, f"{found:.2f}, declared {declared}"


def without_last_jump(build: Build, discretization: Mapping) -> Sampler:
    """Return the sampler without its last step."""
    sampler = build(discretization)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    return sampler


def strong_order(build: Build, discretization: Mapping) -> tuple[bool, str]:
    """Check the order with which runs of more and more steps on one Brownian path approach each other."""
    sampler = without_last_jump(build, discretization)
    return as_declared(slope(PATH_STEPS[:-1], path_differences(sampler, PATH_STEPS)), sampler.strong_order,
                       "strong_order")


def weak_order(build: Build, discretization: Mapping) -> tuple[bool, str]:
    """Check the order with which the samples' mean and covariance approach those of Gaussian data."""
    sampler = without_last_jump(build, discretization)
    errors = [float(bias(sampler, n, MEAN, COVARIANCE).norm()) for n in BIAS_STEPS]
    return as_declared(slope(BIAS_STEPS, errors), sampler.weak_order, "weak_order")


def limit_of_bias(build: Build, discretization: Mapping) -> tuple[bool, str]:
    """Check that the bias of mean and covariance tends to 0: extrapolated from two numbers of steps."""
    sampler = without_last_jump(build, discretization)
    few, many = (bias(sampler, n, MEAN, COVARIANCE) for n in (BIAS_STEPS[0], BIAS_STEPS[-1]))
    growth = (BIAS_STEPS[-1] / BIAS_STEPS[0]) ** (sampler.weak_order or 1)
    limit = float((many + (many - few) / (growth - 1)).norm())
    return limit < LARGEST_LIMIT, (f"{limit:.1e} ({float(few.norm()):.1e} with {BIAS_STEPS[0]} steps, "
                                   f"{float(many.norm()):.1e} with {BIAS_STEPS[-1]})")


def weight_of_component(build: Build, discretization: Mapping) -> tuple[bool, str]:
    """Check how many of 65,536 samples of a mixture fall to its lighter component."""
    sampler = build(discretization)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 4, 64, 64, generator=generator, dtype=torch.float64)
    denoiser = Mixture(sampler.discretization.parameterization, weight=WEIGHT)
    out = sampler(denoiser, noise, {}, num_steps=WEIGHT_STEPS, generator=generator)
    found = float((out < 0).double().mean())
    error = math.sqrt(WEIGHT * (1 - WEIGHT) / noise.numel())
    return abs(found - WEIGHT) < WEIGHT_TOLERANCE, f"{found:.3f} of {WEIGHT:.3f}, standard error {error:.3f}"
