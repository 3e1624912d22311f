"""Check of a sampler, schedule or guider of your own against problems with exact answers, in under a minute.

    PYTHONPATH=FOLDER python -m benchmarks.check_sampler my_parts.RalstonSampler
    PYTHONPATH=FOLDER python -m benchmarks.check_sampler my_parts.PowerDiscretization --params '{power: 3}'

Naming a class on the command line adds its module, and no other, to the allow-list of targets. Prints one line per
check. The exit code is 1 if a check fails and 2 for a user error. See docs/samplers.md.
"""
import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from omegaconf import OmegaConf

from benchmarks import noise_checks
from benchmarks.exact import SHAPE, FiniteData, Gaussian, WithoutLastJump, count_draws, measured_order, moments
from common.console import run
from common.errors import ConfigError, UserError
from configuration.targets import allow_targets, get_obj_from_str, instantiate_from_config
from sgm.discretizer import Discretization
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import FLOW, VE, VP, Parameterization
from sgm.sampling import Sampler

ALL = slice(None)  # rows of a batch
EDM = {"target": "sgm.discretizer.EDMDiscretization"}
TO_FIXED_NOISE = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"sigma_max": 20.0, "rho": 1.0}}
# Orders of solvers without noise begin where the estimate changes, so that a first step of lower order shows.
BELOW_HIGH_NOISE = {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_max": 2.0}}
VP_BELOW_HIGH_NOISE = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"sigma_max": 1.5, "rho": 1.0}}
FROM_ZERO_SNR = {"target": "sgm.discretizer.VPRampDiscretization"}
HEUN = "sgm.sampling.HeunEDMSampler"
CLIPS = torch.randn(6, *SHAPE[1:], generator=torch.Generator().manual_seed(4), dtype=torch.float64)

Check = tuple[str, Callable[[], tuple[bool, str]]]


class AtRatios:
    """A discretization with the same signal-to-noise ratios in every parameterization."""

    def __init__(self, parameterization: Parameterization):
        self.parameterization = parameterization

    def schedule(self, n: int, device: str = "cpu") -> NoiseSchedule:
        pairs = [self.parameterization.at_ratio(20 * 0.002 ** (i / (n - 1))) for i in range(n)]
        alpha, sigma = torch.tensor([*pairs, (1.0, 0.0)], dtype=torch.float64).unbind(1)
        return NoiseSchedule(alpha, sigma, None, self.parameterization)


class Responsive(Gaussian):
    """Gaussian data whose estimate is smaller where a branch gives the network additional inputs."""

    def __call__(self, x, level, cond, idx=None, **inputs):
        return super().__call__(x, level, cond, idx) * (0.5 if inputs else 1.0)


def sampler_of(config: Mapping, discretization: Mapping = EDM, guider: Mapping | None = None) -> Sampler:
    """Return the sampler with 12 steps of `discretization`, guided by `guider`."""
    params = {**config.get("params", {}), "discretization_config": discretization, "num_steps": 12,
              "guider_config": guider}
    return instantiate_from_config({**config, "params": params})


def conditions(value: float = 1.0) -> tuple[Mapping, Mapping]:
    """Return the conditional and the unconditional conditioning; rows of the conditional one differ in sign."""
    cond = torch.full((SHAPE[0], 1, 1), value)
    cond[1:] *= -1
    return {"crossattn": cond}, {"crossattn": torch.zeros(SHAPE[0], 1, 1)}


def solve(sampler: Sampler, denoiser=None, rows: slice = ALL, scale=None) -> torch.Tensor:
    """Run a sampler, on the Gaussian problem unless a denoiser is given, with a seed per row; return its latents."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[rows]
    cond, uc = ({"crossattn": c["crossattn"][rows]} for c in conditions())
    generators = [torch.Generator().manual_seed(i) for i in range(SHAPE[0])][rows]
    denoiser = denoiser or Gaussian(sampler.discretization.parameterization)
    return sampler(denoiser, noise, cond, uc, scale=scale, generator=generators)


def near(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-8) -> tuple[bool, str]:
    """Return whether two tensors agree within `tolerance`, and their largest difference as text."""
    apart = float((one - other).abs().max())
    return apart < tolerance, f"{apart:.1e} apart"


def ends_at_clips(sampler: Sampler) -> tuple[bool, str]:
    """Check that each row ends at a clip of the half that its conditioning selects."""
    out = solve(sampler, FiniteData(sampler.discretization.parameterization, CLIPS))
    distance, which = (out.flatten(1)[:, None] - CLIPS.flatten(1)).abs().amax(-1).min(dim=1)
    asked_for = (which < 3).tolist() == [True, False]
    return asked_for and bool(distance.max() < 0.1), f"{float(distance.max()):.1e} from clips"


def evaluations(config: Mapping) -> tuple[bool, str]:
    """Check `nfe`, the declared evaluations of the denoised estimate per step; the last step may take fewer."""
    sampler, denoiser = sampler_of(config), Gaussian(VE)
    solve(sampler, denoiser, scale=1)
    return 12 * sampler.nfe - sampler.nfe < denoiser.calls <= 12 * sampler.nfe, f"{denoiser.calls} in 12 steps"


def order(config: Mapping, discretization: Mapping) -> tuple[bool, str]:
    """Check that the measured order of convergence is the declared one."""
    sampler = sampler_of(config, discretization)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    found = measured_order(sampler, (96, 144, 216, 324))
    return noise_checks.as_declared(found, sampler.convergence_order, "convergence_order")


def distribution(config: Mapping) -> tuple[bool, str]:
    """Check that the samples' mean and covariance approach those of the data as steps are added."""
    mean, covariance = noise_checks.MEAN, noise_checks.COVARIANCE

    def error(num_steps: int) -> float:
        found = moments(sampler_of(config), num_steps, mean, covariance)
        return max(float((one - exact).abs().max()) for one, exact in zip(found, (mean, covariance), strict=True))

    few, many = error(12), error(120)
    return many < 0.15 and (many < few / 3 or many < 0.02), f"{few:.3f} off with 12 steps, {many:.3f} with 120"


def parameterizations(config: Mapping) -> tuple[bool, str]:
    """Check that VE, VP and flow noise levels of the same signal-to-noise ratios give the same latents."""
    outs = []
    for parameterization in (VE, VP, FLOW):
        sampler = sampler_of(config)
        sampler.discretization = AtRatios(parameterization)
        outs.append(solve(sampler))
    return near(torch.cat([outs[0], outs[0]]), torch.cat(outs[1:]))


def checks_of_sampler(config: Mapping) -> Iterator[Check]:
    """Yield the checks that apply to a sampler."""
    sampler = sampler_of(config)
    if sampler.nfe is not None:
        yield "evaluations as declared", lambda: evaluations(config)
    if count_draws(sampler, 12) > 0:
        yield from checks_of_noise(config)
    elif sampler.convergence_order is not None:
        yield "order on the EDM ramp", lambda: order(config, BELOW_HIGH_NOISE)
        yield "order on VP levels", lambda: order(config, VP_BELOW_HIGH_NOISE)
    if not sampler.adaptive:
        yield "mean and covariance of Gaussian data", lambda: distribution(config)
    yield "the same on VE, VP and flow levels", lambda: parameterizations(config)
    yield "from zero SNR to a clip of a finite set", lambda: ends_at_clips(sampler_of(config, FROM_ZERO_SNR))
    yield "a row does not depend on its neighbours", lambda: near(solve(sampler)[1:], solve(sampler, rows=slice(1, 2)))
    yield "seeds reproduce", lambda: near(solve(sampler), solve(sampler), 1e-15)


def checks_of_noise(config: Mapping) -> Iterator[Check]:
    """Yield the checks of a sampler that draws noise."""
    def build(discretization: Mapping) -> Sampler:
        return sampler_of(config, discretization)

    yield "strong order", lambda: noise_checks.strong_order(build, EDM)
    yield "weak order on the EDM ramp", lambda: noise_checks.weak_order(build, EDM)
    yield "weak order on VP levels", lambda: noise_checks.weak_order(build, TO_FIXED_NOISE)
    yield "limit of the bias", lambda: noise_checks.limit_of_bias(build, EDM)
    yield "weight of a component of a mixture", lambda: noise_checks.weight_of_component(build, EDM)


def checks_of_schedule(config: Mapping) -> Iterator[Check]:
    """Yield the checks of a discretization, used by Heun's method."""
    def build() -> Sampler:
        return sampler_of({"target": HEUN}, config)

    def falls() -> tuple[bool, str]:
        levels = instantiate_from_config(config).schedule(12).levels()
        return levels[-1].clean, f"sigma / alpha {levels[0].ratio:.4g} to {levels[-2].ratio:.4g}"

    def refuses() -> tuple[bool, str]:
        try:
            instantiate_from_config(config).schedule(0)
        except ConfigError as error:
            return True, str(error)
        return False, "a schedule of 0 steps was accepted"

    build()
    yield "noise falls to the clean end", falls
    yield "refuses 0 steps", refuses
    yield "Heun's method ends at a clip of a finite set", lambda: ends_at_clips(build())
    yield "a row does not depend on its neighbours", lambda: near(solve(build())[1:], solve(build(), rows=slice(1, 2)))


def checks_of_guider(config: Mapping) -> Iterator[Check]:
    """Yield the checks of a guider, used by Heun's method."""
    def build(discretization: Mapping = EDM) -> Sampler:
        return sampler_of({"target": HEUN}, discretization, config)

    def passes() -> tuple[bool, str]:
        sampler, denoiser = build(), Gaussian(VE)
        solve(sampler, denoiser)
        found, most = denoiser.rows / SHAPE[0] / (2 * 12 - 1), len(sampler.guider.passes)
        return found <= most, f"{found:.2f} an evaluation, declared up to {most}"

    def acts() -> tuple[bool, str]:
        sampler = build()
        with_it, without = (solve(sampler, Responsive(VE), scale=scale) for scale in (None, 1))
        apart = float((with_it - without).abs().max())
        return apart > 1e-6, f"{apart:.1e} from the conditional run"

    build()
    alone = sampler_of({"target": HEUN})
    yield "passes as declared", passes
    yield "guidance changes the result", acts
    yield "scale 1 is the conditional run", lambda: near(solve(build(), scale=1), solve(alone, scale=1), 1e-15)
    yield "a row does not depend on its neighbours", lambda: near(solve(build())[1:], solve(build(), rows=slice(1, 2)))
    yield "from zero SNR to a clip of a finite set", lambda: ends_at_clips(build(FROM_ZERO_SNR))


def checks_of(target: str, params: Mapping) -> Iterator[Check]:
    """Yield the checks of a class. Raises ConfigError if it is not a sampler, schedule or guider."""
    cls, config = get_obj_from_str(target), {"target": target, "params": params}
    if issubclass(cls, Sampler):
        return checks_of_sampler(config)
    if issubclass(cls, Discretization):
        return checks_of_schedule(config)
    if hasattr(cls, "passes") and hasattr(cls, "guide"):
        return checks_of_guider(config)
    raise ConfigError(f"{target} is neither a Sampler (sgm.sampling), a Discretization (sgm.discretizer) nor a Guider "
                      "(sgm.guiders): derive it from one of them")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="dotted path of the class")
    parser.add_argument("--params", default="{}", help="parameters of the class, in YAML (default: none)")
    options = parser.parse_args(argv)
    allow_targets(options.target.rpartition(".")[0])
    params, failed = OmegaConf.to_container(OmegaConf.create(options.params)), False
    for name, check in checks_of(options.target, params):
        try:
            passed, found = check()
        except UserError as error:
            passed, found = False, str(error)
        failed = failed or not passed
        sys.stdout.write(f"{'ok    ' if passed else 'FAILED'} {name}: {found}\n")
        sys.stdout.flush()
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run(main))
