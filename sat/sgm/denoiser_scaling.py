"""Coefficients of the denoised estimate: denoised = c_skip * x + c_out * network(c_in * x, c_noise).

They are the four of Karras et al. 2022, table 1, for one level per row. `parameterization` tells whether the level is
sigma (VE, flow) or alphas_cumprod_sqrt (VP), `c_noise_is_level` whether c_noise is the level itself, so that a table of
levels can give its index.
"""
from typing import NamedTuple

import torch

from common.kinds import AboveZero
from sgm.parameterization import FLOW, VE, VP


class Coefficients(NamedTuple):
    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


class EDMScaling:
    """Preconditioning of EDM (Karras et al. 2022, eq. 7 and table 1)."""

    parameterization = VE
    c_noise_is_level = False

    def __init__(self, sigma_data: AboveZero = 0.5):
        self.sigma_data = sigma_data

    def __call__(self, sigma: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / total.sqrt(),
            c_in=1 / total.sqrt(),
            c_noise=0.25 * sigma.log(),
        )


class EpsScaling:
    """Coefficients for a network that predicts the noise (Ho et al. 2020)."""

    parameterization = VE
    c_noise_is_level = True

    def __call__(self, sigma: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=1 / (sigma**2 + 1).sqrt(),
            c_noise=sigma,
        )


class VScaling:
    """Coefficients for a network that predicts v (Salimans and Ho 2022, appendix D), in terms of sigma."""

    parameterization = VE
    c_noise_is_level = True

    def __call__(self, sigma: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        return Coefficients(
            c_skip=1 / (sigma**2 + 1),
            c_out=-sigma / (sigma**2 + 1).sqrt(),
            c_in=1 / (sigma**2 + 1).sqrt(),
            c_noise=sigma,
        )


class VScalingWithEDMcNoise(VScaling):
    """VScaling with EDM's c_noise, 0.25 log(sigma)."""

    c_noise_is_level = False

    def __call__(self, sigma: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        return super().__call__(sigma)._replace(c_noise=0.25 * sigma.log())


class VideoScaling:
    """Coefficients for v-prediction on x = alphas_cumprod_sqrt * x0 + sigma * noise; c_noise is the timestep `idx`."""

    parameterization = VP
    c_noise_is_level = False

    def __call__(self, alphas_cumprod_sqrt: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        if idx is None:
            raise ValueError("VideoScaling needs the timestep: pass idx")
        return Coefficients(
            c_skip=alphas_cumprod_sqrt,
            c_out=-(1 - alphas_cumprod_sqrt**2).sqrt(),
            c_in=torch.ones_like(alphas_cumprod_sqrt),
            c_noise=idx.clone(),
        )


class FlowScaling:
    """Coefficients for a network that predicts the velocity noise - x0 of a rectified flow (Liu et al. 2023, eq. 1).

    c_noise is the time in thousandths, 0 to 1000.
    """

    parameterization = FLOW
    c_noise_is_level = False

    def __call__(self, sigma: torch.Tensor, idx: torch.Tensor | None = None) -> Coefficients:
        return Coefficients(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=torch.ones_like(sigma),
            c_noise=1000 * sigma,
        )
