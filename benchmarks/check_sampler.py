"""Check of a sampler, schedule or guider of your own against problems with exact answers, in under a minute.

    PYTHONPATH=FOLDER python -m benchmarks.check_sampler my_parts.RalstonSampler
    PYTHONPATH=FOLDER python -m benchmarks.check_sampler my_parts.PowerDiscretization --params '{power: 3}'

Naming a class on the command line adds its module, and no other, to the allow-list of targets. Prints one line per
check, and below a failed one what is wrong and what to do. `--seed` asks about other data and other noise. The exit
code is 1 if a check fails and 2 for a user error. See docs/samplers.md.
"""
import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch

from benchmarks.checks import estimates, levels, manners, noise, orders, single_steps
from benchmarks.checks.guiders import checks_of_guider
from benchmarks.checks.outcome import Check, Outcome
from benchmarks.checks.parameters import Solve, checks_of_parameters
from benchmarks.checks.problems import (
    BELOW_HIGH_NOISE,
    EDM,
    FROM_ZERO_SNR,
    TO_FIXED_NOISE,
    VP_BELOW_HIGH_NOISE,
    Problems,
    has_parameter,
    sampler_of,
)
from benchmarks.checks.schedules import checks_of_schedule
from common.console import run
from common.errors import ConfigError, UserError
from common.typed import shown
from configuration.targets import allow_targets, get_obj_from_str
from configuration.yaml_files import resolved
from configuration.yaml_text import parse
from sgm.discretizer import Discretization
from sgm.sampling import Sampler

# Parameters of a sampler that belong to a check: its levels, its guider, and what it starts from.
OF_THE_CHECKS = ("num_steps", "discretization_config", "discretization", "guider_config", "guider", "fixed_frames",
                 "sdedit")


def checks_of_sampler(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks that apply to a sampler."""
    sampler = sampler_of(config)
    yield "seeds reproduce", lambda: manners.reproduces(sampler_of(config), problems)
    yield "leaves its inputs alone", lambda: manners.leaves_alone(sampler_of(config), problems)
    yield "a run does not depend on another beside it", lambda: manners.runs_apart(sampler_of(config), problems)
    yield "the precision of the latents", lambda: estimates.precision(config, problems)
    yield "each step uses its own estimate", lambda: estimates.of_each_step(config, problems)
    yield "the timestep of each estimate", lambda: estimates.places(config, problems)
    if sampler.nfe is not None:
        yield "evaluations as declared", lambda: manners.evaluations(config)
    if getattr(sampler, "exact_for_one_clip", True):
        for name, discretization in (("", EDM), (" from zero SNR", FROM_ZERO_SNR)):
            yield f"for one clip each step is at its level{name}", lambda discretization=discretization: (
                levels.at_their_levels(orders.noisy(config) or config, problems, discretization))
    yield from checks_of_noise(config, problems)
    if sampler.convergence_order is not None:
        yield from checks_of_order(config, problems)
    yield "guided as its guider says", lambda: estimates.guided(config, problems)
    yield "the same on VE, VP and flow levels", lambda: manners.parameterizations(lambda: sampler_of(config), problems)
    for name, discretization in (("", FROM_ZERO_SNR), (" from sigma 0.2", manners.MODERATE)):
        yield f"from zero SNR to a clip of a finite set{name}", lambda discretization=discretization: (
            manners.ends_at_clips(sampler_of(config, discretization), problems))
    yield "a row does not depend on its neighbours", lambda: manners.rows_alone(lambda: sampler_of(config), problems)
    if not sampler.adaptive:
        yield "an element does not depend on the size of the latents", lambda: manners.elements_alike(config, problems)
        yield from checks_of_parameters(sampler, Sampler, runs_with(config, problems), noise.CHECKED)


def runs_with(config: Mapping, problems: Problems) -> list[Solve]:
    """Return functions that run a sampler with other parameters: as it is configured, and with noise."""
    def solve_as(config: Mapping, given: Mapping) -> torch.Tensor:
        sampler = sampler_of(config, **given)
        x, cond = problems.noise(), {"crossattn": torch.zeros(len(problems.noise()), 1, 1)}
        first = (torch.ones_like(x),) if sampler.starts_from_image else ()
        denoiser = problems.mixture(sampler.discretization.parameterization)
        return sampler(denoiser, *first, x, cond, generator=problems.generator())

    noisy = orders.noisy(config)
    return [partial(solve_as, one) for one in (config, *([] if noisy in (None, config) else [noisy]))]


def checks_of_noise(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a sampler that adds noise, or does so with one of its parameters."""
    noisy = orders.noisy(config)
    if noisy is None:
        if sampler_of(config).weak_order is not None:
            yield "it adds noise", lambda: noise.never(sampler_of(config))
        return
    given = "".join(f" with {name} {value:g}" for name, value in noisy["params"].items()
                    if name not in config.get("params", {}))
    yield f"strong order{given}", lambda: noise.strong_order(noisy, problems)
    yield f"weak order on the EDM ramp{given}", lambda: noise.distribution(noisy, problems, EDM)
    yield f"weak order on VP levels{given}", lambda: noise.distribution(noisy, problems, TO_FIXED_NOISE)
    yield f"weak order on uneven steps{given}", lambda: noise.distribution(noisy, problems, EDM, uneven=True)
    yield f"the same distribution on a path{given}", lambda: noise.same_on_a_path(noisy, problems)
    yield f"weight of a component of a mixture{given}", lambda: noise.weight_of_component(noisy, problems)
    yield f"noise is used as it is drawn{given}", lambda: noise.used_as_drawn(noisy)
    if has_parameter(sampler_of(noisy), "s_noise"):
        yield "noise in proportion to s_noise", lambda: noise.noise_parameter(noisy)
    for name in noise.AMOUNTS:
        if has_parameter(sampler_of(noisy), name):
            yield f"{name} changes the noise", lambda name=name: noise.amount_parameter(noisy, name)
    if all(has_parameter(sampler_of(noisy), name) for name in ("s_churn", *noise.BOUNDS)):
        yield "churn within s_tmin and s_tmax", lambda: noise.churn_bounds(noisy)


def checks_of_order(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a sampler's order without noise."""
    quiet = orders.quiet(config)
    if quiet is None:
        yield "order without noise", lambda: Outcome(False, "it always adds noise", (
            "convergence_order is the order without noise: write convergence_order = None, or give the sampler a "
            f"parameter that switches noise off at 0, called {', '.join(orders.SWITCHES)}"))
        return
    yield "order on the EDM ramp", lambda: orders.convergence_order(quiet, problems, BELOW_HIGH_NOISE)
    yield "order on VP levels", lambda: orders.convergence_order(quiet, problems, VP_BELOW_HIGH_NOISE)
    yield "order on uneven steps", lambda: orders.convergence_order(quiet, problems, BELOW_HIGH_NOISE, uneven=True)
    yield "single steps of unlike width", lambda: single_steps.uneven_steps(quiet, problems)
    if single_steps.uneven_loss(sampler_of(config)) == 0:
        yield "single steps at all noise levels", lambda: single_steps.same_everywhere(quiet, problems)
    yield "all steps are made alike", lambda: single_steps.steps_alike(quiet, problems)


def checks_of(target: str, params: Mapping, seed: int = 0) -> Iterator[Check]:
    """Yield the checks of a class. Raises ConfigError if it is not a sampler, schedule or guider."""
    cls, config, problems = get_obj_from_str(target), {"target": target, "params": params}, Problems(seed)
    if issubclass(cls, Sampler):
        for name in OF_THE_CHECKS:
            if name in params:
                raise ConfigError(f"--params {name}: the checks give a sampler theirs; leave it out")
        return checks_of_sampler(config, problems)
    if issubclass(cls, Discretization):
        return checks_of_schedule(config, problems)
    if hasattr(cls, "passes") and hasattr(cls, "guide"):
        return checks_of_guider(config, problems)
    raise ConfigError(f"{target} is neither a Sampler (sgm.sampling), a Discretization (sgm.discretizer) nor a Guider "
                      "(sgm.guiders): derive it from one of them")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="dotted path of the class")
    parser.add_argument("--params", default="{}", help="parameters of the class, in YAML (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of data and noise (default: %(default)s)")
    options = parser.parse_args(argv)
    allow_targets(options.target.rpartition(".")[0])
    params = params_of(options.params)
    with one_thread():
        if not all([_reported(name, check) for name, check in checks_of(options.target, params, options.seed)]):
            raise SystemExit(1)


def params_of(text: str) -> Mapping:
    """Return parameters that are given as YAML. Raises ConfigError if they are no mapping of names to values."""
    parsed = parse(text, "--params")
    params = {} if parsed is None else resolved(parsed)
    if not isinstance(params, Mapping):
        raise ConfigError(f"--params is {shown(text)}; it must be names with values, such as '{{scale: 3}}'")
    return params


def _reported(name: str, check: Callable[[], Outcome]) -> bool:
    """Run a check, print what came out, and return whether it passed."""
    try:
        outcome = check()
    except UserError as error:
        outcome = Outcome(False, "it was refused", str(error))
    except Exception as error:  # whatever the class that is checked raises
        frame = traceback.extract_tb(error.__traceback__)[-1]
        outcome = Outcome(False, f"{type(error).__name__}: {error}", f"raised in {frame.name}, {frame.filename} line "
                          f"{frame.lineno}")
    sys.stdout.write(f"{'ok    ' if outcome.passed else 'FAILED'} {name}: {outcome.found}\n")
    if not outcome.passed:
        sys.stdout.write(f"       {outcome.remedy}\n")
    sys.stdout.flush()
    return outcome.passed


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread of torch: the problems are so small that several wait for each other, on a busy machine for long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(run(main))
