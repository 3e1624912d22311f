"""Guided estimates with their range kept in check; each is called with (uncond, cond, scale).

Latents are (B, T, C, H, W); `scale` is a number or one number per row.
"""
import torch

from sgm.tensors import append_dims


def guide(uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """uncond + scale * (cond - uncond) (Ho and Salimans 2022, eq. 6, with scale = 1 + w)."""
    if isinstance(scale, torch.Tensor):
        scale = append_dims(scale.to(cond), cond.ndim)
    return uncond + scale * (cond - uncond)


def clamp_outliers(x: torch.Tensor, quantile: float = 0.995) -> torch.Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): each row clamped to its quantile, at least 1."""
    bound = torch.quantile(x.float().abs().flatten(1), quantile, dim=1).clamp(min=1.0)
    bound = append_dims(bound, x.ndim)
    return x.float().clamp(-bound, bound).to(x.dtype)


class NoDynamicThresholding:
    """Plain guidance."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        return guide(uncond, cond, scale)


class StaticThresholding:
    """Guided, then clamped to [-1, 1]."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        return guide(uncond, cond, scale).clamp(-1.0, 1.0)


class DynamicThresholding:
    """Guided, then standardized and given the spread of the unconditional estimate, over the whole batch."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        guided = guide(uncond, cond, scale)
        return (guided - guided.mean()) / guided.std() * uncond.std()


class DynamicThresholdingV1:
    """Guided; then, per row and channel, deviations from the mean divided by their 0.9995 quantile and clamped.

    `scale_factor` is the latent's: the thresholding is done on unscaled latents.
    """

    def __init__(self, scale_factor: float):
        self.scale_factor = scale_factor

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        guided = guide(uncond, cond, scale) / self.scale_factor
        mean = guided.mean(dim=(1, 3, 4), keepdim=True)
        deviation = guided - mean
        magnitude = deviation.abs().max()
        bound = _channel_quantile(deviation.abs() / magnitude, 0.9995)
        thresholded = (deviation / magnitude).clamp(-bound, bound) / bound
        return (thresholded * magnitude + mean) * self.scale_factor


class DynamicThresholdingV2:
    """The estimate guided at 8, with the spread per row and channel that guidance at 4 has; `scale` is not used."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        gentle, strong = guide(uncond, cond, 4.0), guide(uncond, cond, 8.0)
        mean = strong.mean(dim=(1, 3, 4), keepdim=True)
        return (strong - mean) * (_channel_std(gentle) / _channel_std(strong)) + mean


def _channel_std(x: torch.Tensor) -> torch.Tensor:
    """(B, T, C, H, W) -> (B, 1, C, 1, 1)."""
    return x.std(dim=(1, 3, 4), keepdim=True)


def _channel_quantile(x: torch.Tensor, quantile: float) -> torch.Tensor:
    """(B, T, C, H, W) -> (B, 1, C, 1, 1)."""
    per_channel = torch.quantile(x.float().transpose(1, 2).flatten(2), quantile, dim=2).to(x.dtype)
    return per_channel[:, None, :, None, None]
