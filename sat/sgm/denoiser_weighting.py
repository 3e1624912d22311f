"""Loss weights by noise level sigma."""
import torch


class UnitWeighting:
    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(sigma)


class EDMWeighting:
    """Makes the network's own target have unit variance at every level (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_data: float = 0.5):
        self.sigma_data = sigma_data

    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class VWeighting(EDMWeighting):
    """The error in v, as a weight on the denoised estimate: (sigma^2 + 1) / sigma^2."""

    def __init__(self):
        super().__init__(sigma_data=1.0)


class EpsWeighting:
    """The error in the noise, as a weight on the denoised estimate: 1 / sigma^2."""

    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma**-2.0
