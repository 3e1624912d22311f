"""Checks of solvers without noise: the order of convergence of whole runs."""
from collections.abc import Iterator, Mapping

import torch

from benchmarks.checks.fits import order_of
from benchmarks.checks.outcome import Outcome
from benchmarks.checks.problems import Problems, Uneven, has_parameter, run_of, sampler_of, unit
from benchmarks.exact import WithoutLastJump
from benchmarks.exact_moments import count_draws, responses
from sgm.sampling import Sampler

TOLERANCE = 0.3  # of a measured order
STEPS = (32, 64, 128, 256, 512, 1024)
SHAPE = (1, 2, 3, 2, 2)
SWITCHES = {"eta": 1.0, "s_churn": 20.0, "s_noise": 1.0, "tau": 1.0}  # 0 where a sampler adds no noise; here it does
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
    return next((one for one in _switched(config, dict.fromkeys(SWITCHES, 0.0)) if not is_noisy(one)), None)


def noisy(config: Mapping) -> Mapping | None:
    """Return the configuration with noise, switched on if need be; None if no parameter of `SWITCHES` does that."""
    return next((one for one in _switched(config, SWITCHES) if is_noisy(one)), None)


def _switched(config: Mapping, values: Mapping[str, float]) -> Iterator[Mapping]:
    """Yield the configuration, and then with the value of each parameter that the sampler has."""
    sampler = sampler_of(config)
    for given in ({}, *({name: value} for name, value in values.items() if has_parameter(sampler, name))):
        yield {**config, "params": {**config.get("params", {}), **given}}


def is_noisy(config: Mapping) -> bool:
    """Return True if what a sampler draws moves its latents."""
    sampler = sampler_of(config)
    return count_draws(sampler, 12) > 0 and bool(responses(sampler, 12).abs().max() > 0)


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
