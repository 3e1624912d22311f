"""Checks of discretizations, used by Heun's method."""
from collections.abc import Iterator, Mapping

from benchmarks.checks.manners import ends_at_clips, rows_alone
from benchmarks.checks.outcome import Check, Outcome
from benchmarks.checks.problems import Problems, sampler_of
from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.sampling import Sampler

HEUN = {"target": "sgm.sampling.HeunEDMSampler"}


def checks_of_schedule(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a discretization."""
    def build() -> Sampler:
        return sampler_of(HEUN, config)

    build()
    yield "noise falls to the clean end", lambda: falls(config)
    yield "refuses 0 steps", lambda: refuses_none(config)
    yield "Heun's method ends at a clip of a finite set", lambda: ends_at_clips(build(), problems)
    yield "a row does not depend on its neighbours", lambda: rows_alone(build, problems)


def falls(config: Mapping) -> Outcome:
    """Check that the last level is clean."""
    levels = instantiate_from_config(config).schedule(12).levels()
    return Outcome(levels[-1].clean, f"sigma / alpha {levels[0].ratio:.4g} to {levels[-2].ratio:.4g}",
                   "the last level has noise: leave the clean end to Discretization.schedule")


def refuses_none(config: Mapping) -> Outcome:
    """Check that a schedule of no steps is refused."""
    try:
        instantiate_from_config(config).schedule(0)
    except ConfigError as error:
        return Outcome(True, str(error))
    return Outcome(False, "a schedule of 0 steps was accepted", "leave `schedule` to Discretization, and define levels")
