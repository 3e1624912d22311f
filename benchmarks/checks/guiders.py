"""Checks of guiders, used by Heun's method."""
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace

import torch

from benchmarks.checks import pushes
from benchmarks.checks.manners import (
    beginning,
    conditions,
    ends_at_clips,
    parameterizations,
    reproduces,
    rows_alone,
    runs_apart,
    solve,
)
from benchmarks.checks.outcome import Check, Outcome, near
from benchmarks.checks.parameters import checks_of_parameters
from benchmarks.checks.problems import EDM, FROM_ZERO_SNR, TO_FIXED_NOISE, Problems, sampler_of
from benchmarks.checks.pushes import Responsive, Timed
from benchmarks.exact import SHAPE, FiniteData
from sgm.conditioning import Conditioning
from sgm.guiders import Guider
from sgm.parameterization import VE
from sgm.sampling import Sampler
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided

HEUN = {"target": "sgm.sampling.HeunEDMSampler"}
ALMOST_ONE, FRACTION = 1 - 1e-6, 0.9  # of a scale, and how much smaller another one is
INTERVAL = (0.5, 5.0)  # of sigma / alpha
LEAST = 1e-3  # by which guidance changes latents of deviation 0.5


class TimedClips(Timed, FiniteData):
    """A finite set of clips, whatever additional inputs a branch gives."""


def checks_of_guider(config: Mapping, problems: Problems) -> Iterator[Check]:
    """Yield the checks of a guider."""
    def build(discretization: Mapping = EDM, **given) -> Sampler:
        return sampler_of(HEUN, discretization, {**config, "params": {**config.get("params", {}), **given}})

    guider = build().guider
    limit = getattr(guider, "dyn_thresh_config", None)  # of a range in which the estimates and clips here are not
    yield "passes as declared", lambda: passes(build())
    yield "guidance changes the result", lambda: acts(build(), problems)
    if limit is None:
        yield "guidance leads towards cond", lambda: pushes.leads_to_cond(build(), problems)
    if guider.continuous_at_one:
        yield "near scale 1 it is near cond", lambda: _run_of(build(scale=ALMOST_ONE), problems, 1e-3, (
            "a scale of nearly 1 is not nearly the conditional estimate: push has to return that as its second value, "
            "and the scale must be used as it is given; continuous_at_one = False says that it is meant so"))
    yield "the scale of a call is that of the parameters", lambda: near(
        solve(build(), Responsive(VE), scale=0.5, problems=problems),
        solve(build(scale=0.5), Responsive(VE), problems=problems), 1e-12,
        "the scale that a run is given replaces the configured one: scale_at(noise, scale) has to use its `scale`")
    yield "the scale is used as it is given", lambda: as_given(build(), build(scale=build().guider.scale * FRACTION))
    yield "a scale for each row", lambda: scales_of_rows(build, problems)
    if has_field(guider, "sigma_lo") and has_field(guider, "sigma_hi"):
        yield "guidance within sigma_lo and sigma_hi", lambda: within_interval(build)
    if has_field(guider, "rescale"):
        yield "rescale 1 keeps the deviation of cond", lambda: pushes.rescales(build(rescale=1.0), problems)
    yield "scale 1 is the conditional run", lambda: _run_of(
        build(), problems, 1e-15, "scale_at has to return 1 for scale 1", scale=1)
    yield "leaves estimates alone", lambda: pushes.leaves_alone(build(), problems)
    yield "the precision of the estimates", lambda: pushes.precision(build(), problems, smooth=limit is None)
    yield "a row does not depend on its neighbours", lambda: rows_alone(build, problems, Responsive(VE))
    yield "seeds reproduce", lambda: reproduces(build(), problems, Responsive(VE))
    yield "a run does not depend on another beside it", lambda: runs_apart(build(), problems, guided_beginning)
    yield "the same on VE, VP and flow levels", lambda: parameterizations(build, problems, Responsive)
    if limit is None and guider.scale >= 1:  # with less, a run can end between the clips of two branches
        yield "from zero SNR to a clip of a finite set", lambda: ends_at_clips(
            build(FROM_ZERO_SNR), problems, TimedClips)
    yield from checks_of_parameters(guider, Guider, [lambda given: solve(build(**given), Responsive(VE),
                                                                         problems=problems)])


def guided_beginning(sampler: Sampler, problems: Problems, seed: int) -> tuple[Run, torch.Tensor]:
    """Return a run of one row that is guided, and its first latents."""
    run, x = beginning(sampler, problems, seed)
    halves = ({name: value[:1] for name, value in half.items()} for half in conditions())
    guided = Guided(Responsive(VE), sampler.guider, Conditioning(*halves), None, {}, levels=run.schedule.levels())
    return replace(run, predict=guided), x


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
    return Outcome(apart > LEAST, f"{apart:.1e} from the conditional run",
                   "guidance does next to nothing: push returns nearly the same estimate twice, or the scale is 1 "
                   "everywhere")


def has_field(guider, name: str) -> bool:
    """Return True if a configuration of the guider may have this parameter."""
    return is_dataclass(guider) and any(one.name == name and one.init for one in fields(guider))


def scales_at(sampler: Sampler) -> list[float]:
    """Return the guider's scale at the levels of the schedule that steps begin at."""
    return [float(sampler.guider.scale_at(replace(level, timestep=Timed().timestep_at(level.ratio))))
            for level in sampler.schedule().levels()[:-1]]


def as_given(*samplers: Sampler) -> Outcome:
    """Check that a scale that is the same wherever guidance acts is the configured one, for two of them."""
    wrong = ""
    for sampler in samplers:
        acting, given = {scale for scale in scales_at(sampler) if scale != 1}, sampler.guider.scale
        if len(acting) == 1 and acting.isdisjoint({given, 1 + given}):
            wrong = f"{acting.pop():.4g} for scale {given:.4g}"
    return Outcome(not wrong, wrong or "as given, or varied over the steps",
                   "scale_at returns one number that is not the scale; let it return the scale, and 1 where nothing is "
                   "guided")


def scales_of_rows(build: Callable[..., Sampler], problems: Problems) -> Outcome:
    """Check that a row whose scale is another than its neighbour's is what it is with that scale alone."""
    given = build().guider.scale
    scales = torch.tensor([given, given * FRACTION], dtype=torch.float64)
    together = solve(build(), Responsive(VE), scale=scales, problems=problems)
    alone = [solve(build(), Responsive(VE), scale=scale, problems=problems)[i:i + 1]
             for i, scale in enumerate(scales.tolist())]
    return near(together, torch.cat(alone), 1e-8, "at.scale can be a tensor with a number for each row (B,): bring it "
                "to the estimates' dimensions, as common.tensors.append_dims(at.scale, cond.ndim) does")


def within_interval(build: Callable[..., Sampler]) -> Outcome:
    """Check that the scale is 1 outside a guidance interval, and inside it what it is without one."""
    (low, high), wrong, acting = INTERVAL, [], 0
    for levels in (EDM, TO_FIXED_NOISE):
        everywhere, between = (scales_at(build(levels, sigma_lo=a, sigma_hi=b)) for a, b in ((0.0, math.inf), INTERVAL))
        ratios = [level.ratio for level in build(levels).schedule().levels()[:-1]]
        wrong += [ratio for ratio, free, bound in zip(ratios, everywhere, between, strict=True)
                  if bound != (free if low < ratio <= high else 1)]
        acting += sum(scale != 1 for scale in between)
    return Outcome(not wrong, f"not at sigma / alpha {', '.join(f'{ratio:.3g}' for ratio in wrong)}" if wrong else
                   f"{acting} of 24 steps are guided between {low} and {high}",
                   "guidance has to act where sigma_lo < sigma / alpha <= sigma_hi: let scale_at begin with "
                   "super().scale_at(noise, scale)")


def _run_of(guided: Sampler, problems: Problems, tolerance: float, remedy: str, **given) -> Outcome:
    """Compare a guided run with the conditional one."""
    alone = solve(sampler_of(HEUN), Responsive(VE), scale=1, problems=problems)
    return near(solve(guided, Responsive(VE), problems=problems, **given), alone, tolerance, remedy)
