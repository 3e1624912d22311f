"""The parameterizations of noise: x = alpha * x0 + sigma * noise with alpha and sigma tied to one number, the level.

A level is what denoisers are called with and what discretizations return: sigma on VE and flow, alphas_cumprod_sqrt
(alpha) on VP. Tensors of levels, alpha and sigma have one shape.
"""
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch

from common.errors import ConfigError

Number = TypeVar("Number", float, torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class Parameterization(ABC):
    """Base of the three parameterizations, which have no state of their own."""

    name: ClassVar[str]

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def alpha_sigma(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (alpha, sigma) at these levels."""

    @abstractmethod
    def level(self, alpha: Number, sigma: Number) -> Number:
        """Return the level of an alpha and sigma that belong to this parameterization."""

    @abstractmethod
    def equal_ratio(self, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the level at which sigma / alpha is that of any other alpha and sigma."""

    @abstractmethod
    def at_ratio(self, ratio: float) -> tuple[float, float]:
        """Return the (alpha, sigma) with sigma / alpha = `ratio`, which must be finite on VE."""

    def rising(self, level: Number) -> Number:
        """Return a number that rises with the noise of a level."""
        return level


class VarianceExploding(Parameterization):
    """alpha = 1, as in EDM (Karras et al. 2022)."""

    name = "VE"

    def alpha_sigma(self, level):
        return torch.ones_like(level), level

    def level(self, alpha, sigma):
        return sigma

    def equal_ratio(self, alpha, sigma):
        return sigma / alpha

    def at_ratio(self, ratio):
        return 1.0, ratio


class VariancePreserving(Parameterization):
    """alpha^2 + sigma^2 = 1, as in DDPM (Ho et al. 2020); the level is alpha."""

    name = "VP"

    def alpha_sigma(self, level):
        return level, (1 - level**2).sqrt()

    def level(self, alpha, sigma):
        return alpha

    def equal_ratio(self, alpha, sigma):
        return alpha / torch.hypot(alpha, sigma)

    def at_ratio(self, ratio):
        if math.isinf(ratio):
            return 0.0, 1.0
        alpha = 1 / math.hypot(1.0, ratio)
        return alpha, ratio * alpha

    def rising(self, level):
        return -level


class RectifiedFlow(Parameterization):
    """alpha = 1 - sigma (Liu et al. 2023, eq. 1)."""

    name = "flow"

    def alpha_sigma(self, level):
        return 1 - level, level

    def level(self, alpha, sigma):
        return sigma

    def equal_ratio(self, alpha, sigma):
        return sigma / (alpha + sigma)

    def at_ratio(self, ratio):
        if math.isinf(ratio):
            return 0.0, 1.0
        alpha = 1 / (1 + ratio)
        return alpha, ratio * alpha


VE, VP, FLOW = VarianceExploding(), VariancePreserving(), RectifiedFlow()


def named(name: str | Parameterization) -> Parameterization:
    """Return the parameterization called VE, VP or flow, or the given one. Raises ConfigError for another name."""
    for known in (VE, VP, FLOW):
        if name in (known, known.name):
            return known
    raise ConfigError(f"parameterization is {name!r}; it must be VE, VP or flow")
