"""Checks of discretizations, used by Heun's method."""
from collections.abc import Iterator, Mapping

from benchmarks.checks.manners import ends_at_clips, rows_alone
from benchmarks.checks.outcome import Check, Outcome, near
from benchmarks.checks.problems import Problems, sampler_of
from benchmarks.exact import WithoutLastJump, flow_error
from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.sampling import Sampler

HEUN = {"target": "sgm.sampling.HeunEDMSampler"}
FEW, MANY = 12, 48  # steps
SHIFTED = 10  # timesteps, of a table that is shifted after some of its timesteps were chosen


def checks_of_schedule(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a discretization."""
    def build() -> Sampler:
        return sampler_of(HEUN, config)

    build()
    yield "noise falls to the clean end", lambda: falls(config)
    yield "refuses 0 steps", lambda: refuses_none(config)
    yield "the same levels each time", lambda: same_again(config)
    yield "timesteps of the levels", lambda: timesteps(config)
    yield "more steps are closer to the flow", lambda: refines(build())
    yield "Heun's method ends at a clip of a finite set", lambda: ends_at_clips(build(), problems)
    yield "a row does not depend on its neighbours", lambda: rows_alone(build, problems)


def falls(config: Mapping) -> Outcome:
    """Check that the last level is clean."""
    levels = instantiate_from_config(config).schedule(12).levels()
    return Outcome(levels[-1].clean, f"sigma / alpha {levels[0].ratio:.4g} to {levels[-2].ratio:.4g}",
                   "the last level has noise: leave the clean end to Discretization.schedule")


def same_again(config: Mapping) -> Outcome:
    """Check that a schedule is the same when it is asked for again, after another."""
    one = instantiate_from_config(config)
    first = one.schedule(FEW).level.clone()
    one.schedule(MANY)
    return near(first, one.schedule(FEW).level, 1e-15, "the levels of 12 steps are others after those of 48 were asked "
                "for: change no array that is kept, and draw no numbers")


def timesteps(config: Mapping) -> Outcome:
    """Check that the timesteps of levels are about those that the table has for their noise."""
    schedule = instantiate_from_config(config).schedule(FEW)
    if schedule.timestep_at is None:
        return Outcome(True, "it has none")
    apart = max(abs(level.timestep - schedule.timestep_at(level.ratio)) for level in schedule.levels()[:-1])
    return Outcome(apart < SHIFTED, f"within {apart:.2g}", "timesteps(n) are others than those of levels(n): they "
                   "ascend, so that the last one is of the first level")


def refines(sampler: Sampler) -> Outcome:
    """Check that with four times the steps Heun's method ends closer to the exact flow of Gaussian data."""
    sampler.discretization = WithoutLastJump(sampler.discretization)
    few, many = (flow_error(sampler, n) for n in (FEW, MANY))
    return Outcome(many < few / 2, f"{few:.1e} with {FEW} steps, {many:.1e} with {MANY}", "more steps hardly shrink "
                   "the error: levels(n) leaves a gap that does not narrow as n grows")


def refuses_none(config: Mapping) -> Outcome:
    """Check that a schedule of no steps is refused."""
    try:
        instantiate_from_config(config).schedule(0)
    except ConfigError as error:
        return Outcome(True, str(error))
    return Outcome(False, "a schedule of 0 steps was accepted", "leave `schedule` to Discretization, and define levels")
