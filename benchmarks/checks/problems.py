"""The exact problems that checks ask about, decided by a seed: other seeds ask about other data and other noise."""
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial

import torch

from benchmarks.exact import SHAPE, CorrelatedGaussian, Mixture
from common.seeds import generator_for
from configuration.targets import instantiate_from_config
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.parameterization import Parameterization
from sgm.sampling import Sampler

EDM = {"target": "sgm.discretizer.EDMDiscretization"}
TO_FIXED_NOISE = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"sigma_max": 20.0, "rho": 1.0}}
# Orders of solvers without noise begin where the estimate changes, so that a first step of lower order shows.
BELOW_HIGH_NOISE = {"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_max": 2.0}}
VP_BELOW_HIGH_NOISE = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"sigma_max": 1.5, "rho": 1.0}}
FROM_ZERO_SNR = {"target": "sgm.discretizer.VPRampDiscretization"}
LEAST, MOST = 0.05, 1.0  # variances of the Gaussian data


def sampler_of(config: Mapping, discretization: Mapping = EDM, guider: Mapping | None = None, **given) -> Sampler:
    """Return the sampler with 12 steps of `discretization`, guided by `guider`, with `given` for its own parameters."""
    params = {**config.get("params", {}), **given, "discretization_config": discretization, "num_steps": 12,
              "guider_config": guider}
    return instantiate_from_config({**config, "params": params})


def has_parameter(sampler: Sampler, name: str) -> bool:
    """Return True if a configuration of the sampler may have this parameter."""
    return any(one.name == name and one.init for one in fields(sampler))


def run_of(sampler: Sampler) -> Callable[..., torch.Tensor]:
    """Return what runs a sampler from noise, from the first level of its schedule."""
    return partial(Sampler.__call__, sampler) if sampler.starts_from_image else sampler


class AtRatios:
    """A discretization with the same signal-to-noise ratios in every parameterization."""

    def __init__(self, parameterization: Parameterization):
        self.parameterization = parameterization

    def schedule(self, n: int, device: str = "cpu") -> NoiseSchedule:
        pairs = [self.parameterization.at_ratio(20 * 0.002 ** (i / (n - 1))) for i in range(n)]
        alpha, sigma = torch.tensor([*pairs, (1.0, 0.0)], dtype=torch.float64).unbind(1)
        return NoiseSchedule(alpha, sigma, None, self.parameterization)


class Uneven:
    """A discretization with even numbers of steps that are narrow and twice as wide in turn."""

    def __init__(self, discretization):
        self.discretization, self.parameterization = discretization, discretization.parameterization

    def schedule(self, n: int, device: str = "cpu") -> NoiseSchedule:
        whole = self.discretization.schedule(3 * n // 2, device)
        kept = [i for i in range(3 * n // 2 + 1) if i % 3 != 2]
        return NoiseSchedule(whole.alpha[kept], whole.sigma[kept], None, self.parameterization)


@dataclass(frozen=True)
class Problems:
    """The data and the noise of a seed: a Gaussian in three dimensions, unlike along each, and a mixture."""

    seed: int = 0

    def noise(self, shape=SHAPE) -> torch.Tensor:
        """Return unit noise, the same for the same shape."""
        return torch.randn(shape, generator=self._generator("noise"), dtype=torch.float64)

    def generator(self) -> torch.Generator:
        """Return the generator of what a run draws."""
        return self._generator("draws")

    @cached_property
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean (3,) and covariance (3, 3) of the Gaussian data."""
        generator = self._generator("moments")
        mean = torch.randn(3, generator=generator, dtype=torch.float64) / 2
        directions, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        between = torch.rand(1, generator=generator, dtype=torch.float64)
        shares = torch.cat([torch.zeros(1), between, torch.ones(1)])
        return mean, directions @ torch.diag(LEAST * (MOST / LEAST) ** shares) @ directions.T

    @cached_property
    def weight_and_deviation(self) -> tuple[float, float]:
        """The weight of the mixture's lighter component, 0.15 to 0.45, and the deviation of both, 0.15 to 0.35."""
        first, second = torch.rand(2, generator=self._generator("mixture"), dtype=torch.float64).tolist()
        return 0.15 + 0.3 * first, 0.15 + 0.2 * second

    def gaussian(self, parameterization: Parameterization) -> CorrelatedGaussian:
        """Return the exact denoiser of the Gaussian data."""
        return CorrelatedGaussian(parameterization, *self.moments)

    def mixture(self, parameterization: Parameterization) -> Mixture:
        """Return the exact denoiser of the mixture."""
        return Mixture(parameterization, *self.weight_and_deviation)

    def _generator(self, name: str) -> torch.Generator:
        return generator_for("check", self.seed, name)


def unit(level: NoiseLevel) -> float:
    """Return the deviation of latents at a level whose data have deviation 1."""
    return math.hypot(level.alpha, level.sigma)
