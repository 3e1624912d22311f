"""Guidance with thresholding: callables (uncond, cond, scale) -> guided estimate, some of which limit its range.

Latents are (B, T, C, H, W); `scale` is a number or one number per row.
"""
import math
from typing import Annotated

import torch
from annotated_types import Gt, Le

from common.kinds import AboveZero
from common.tensors import append_dims


def guide(uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Return uncond + scale * (cond - uncond) (Ho and Salimans 2022, eq. 6, with scale = 1 + w)."""
    if isinstance(scale, torch.Tensor):
        scale = append_dims(scale.to(cond), cond.ndim)
    return uncond + scale * (cond - uncond)


def rescaled(guided: torch.Tensor, cond: torch.Tensor, share: float) -> torch.Tensor:
    """Return guided rows brought to the standard deviation of the conditional ones, by `share` (0 to 1).

    See Lin et al. 2024, eq. 15 and 16.
    """
    factor = cond.flatten(1).std(dim=1) / guided.flatten(1).std(dim=1).clamp(min=torch.finfo(guided.dtype).tiny)
    return guided * append_dims(share * factor + (1 - share), guided.ndim)


class NoDynamicThresholding:
    """Guidance without thresholding."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        return guide(uncond, cond, scale)


class StaticThresholding:
    """Guidance with the result clamped to [-1, 1]."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        return guide(uncond, cond, scale).clamp(-1.0, 1.0)


class PercentileThresholding:
    """Imagen's dynamic thresholding (Saharia et al. 2022, section 2.3).

    Where the `percentile` of a row's absolute values exceeds `limit`, the normal range of the data, the guided row is
    clamped to that percentile and scaled down to `limit`.
    """

    def __init__(self, percentile: Annotated[float, Gt(0), Le(1)] = 0.995, limit: AboveZero = 1.0):
        self.percentile, self.limit = percentile, limit

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        guided = guide(uncond, cond, scale)
        magnitudes = guided.abs().flatten(1)
        rank = math.ceil(self.percentile * magnitudes.shape[1])
        bound = append_dims(magnitudes.kthvalue(rank, dim=1).values.clamp(min=self.limit), guided.ndim)
        return guided.clamp(-bound, bound) * (self.limit / bound)


class DynamicThresholding:
    """Guidance with mean 0 and the standard deviation of the unconditional estimate, over the whole batch."""

    of_batch = True  # a video depends on the others of its batch

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        guided = guide(uncond, cond, scale)
        return (guided - guided.mean()) / guided.std() * uncond.std()


class DynamicThresholdingV1:
    """Guidance with deviations from the mean, per row and channel, clamped to their 0.9995 quantile.

    The clamped deviations are then scaled up to the largest one of the batch. `scale_factor` is the latent's:
    thresholding acts on unscaled latents.
    """

    of_batch = True

    def __init__(self, scale_factor: AboveZero):
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
    """Guidance at scale 8 with the deviation per row and channel of guidance at scale 4; `scale` is not used."""

    def __call__(self, uncond: torch.Tensor, cond: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
        gentle, strong = guide(uncond, cond, 4.0), guide(uncond, cond, 8.0)
        mean = strong.mean(dim=(1, 3, 4), keepdim=True)
        return (strong - mean) * (_channel_std(gentle) / _channel_std(strong)) + mean


def _channel_std(x: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation per row and channel: (B, T, C, H, W) -> (B, 1, C, 1, 1)."""
    return x.std(dim=(1, 3, 4), keepdim=True)


def _channel_quantile(x: torch.Tensor, quantile: float) -> torch.Tensor:
    """Return the quantile per row and channel: (B, T, C, H, W) -> (B, 1, C, 1, 1)."""
    per_channel = torch.quantile(x.float().transpose(1, 2).flatten(2), quantile, dim=2).to(x.dtype)
    return per_channel[:, None, :, None, None]
