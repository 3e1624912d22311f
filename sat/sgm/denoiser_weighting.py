"""Weights of the denoised estimate's squared error in the loss, by noise level sigma."""
import torch

from common.kinds import AboveZero


class UnitWeighting:
    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(sigma)


class EDMWeighting:
    """The weight 1 / c_out^2, so that errors of the network's own output count alike (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_data: AboveZero = 0.5):
        self.sigma_data = sigma_data

    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class VWeighting(EDMWeighting):
    """The weight (sigma^2 + 1) / sigma^2, with which the error is that in v."""

    def __init__(self):
        super().__init__(sigma_data=1.0)


class EpsWeighting:
    """The weight 1 / sigma^2, with which the error is that in the noise."""

    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma**-2.0
