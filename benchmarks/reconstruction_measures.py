"""Measures of a reconstruction against its source: PSNR, SSIM, flicker, edges and detail."""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.decibels import EQUAL, psnr

WINDOW, DEVIATION = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights, from the finest scale on (Wang et al. 2003, section 3.2)
PATCH, PATCHES, DIRECTIONS, SMALLEST = 7, 16384, 128, 16  # pixels, patches of a scale, projections, pixels of a side
FLAT = 1.0  # squares of grey levels: a clip with less edge energy has no edges to speak of


@dataclass(frozen=True)
class Quality:
    """How near a reconstruction is to its source: PSNR in dB, SSIM, the flicker of both, and the rest.

    Sharpness and edges are in percent, and nan for a source without edges; `detail_apart` is in grey levels.
    """

    psnr: float
    ssim: float
    flicker: float
    source_flicker: float
    sharpness: float
    ms_ssim: float
    edges_kept: float
    edges_true: float
    detail_apart: float


def compared(source: Tensor, made: Tensor) -> Quality:
    """Return the quality of a reconstruction; both (T, 3, H, W) in [-1, 1]."""
    a, b = ((x.double().clamp(-1, 1) + 1) * 127.5 for x in (source, made))
    error, energy = float((a - b).square().mean()), edge_energy(a)
    sharpness, kept, true = math.nan, math.nan, math.nan
    if energy >= FLAT:
        sharpness, (kept, true) = edge_energy(b) / energy, edges(a, b)
    return Quality(psnr(error, 255, EQUAL), ssim(a, b), flicker(b), flicker(a), 100 * sharpness,
                   ms_ssim(a, b), 100 * kept, 100 * true, detail_apart(a, b))


def ssim(a: Tensor, b: Tensor) -> float:
    """Return the mean structural similarity of frames (T, C, H, W) in [0, 255], whose sides have 11 pixels or more."""
    luminance, structure = _similarity(a, b)
    return float((luminance * structure).mean())


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """Return the mean similarity over scales of frames (T, C, H, W) in [0, 255] (Wang et al. 2003, eq. 7).

    There are five scales for sides of 176 pixels or more; smaller frames have as many as leave 11 pixels, with the
    weights of these alone.
    """
    count = min(len(SCALES), 1 + int(math.log2(min(a.shape[-2:]) / WINDOW)))
    product = torch.ones(a.shape[:2], dtype=a.dtype)
    for scale, weight in enumerate(SCALES[:count]):
        luminance, structure = _similarity(a, b)
        value = luminance * structure if scale == count - 1 else structure
        product *= value.mean(dim=(2, 3)).clamp_min(0) ** (weight / sum(SCALES[:count]))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return float(product.mean())


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarity of luminance, and that of contrast and structure, at each pixel that a window fits."""
    offsets = torch.arange(WINDOW, dtype=a.dtype) - WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * DEVIATION ** 2))
    kernel = torch.outer(line, line) / line.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], kernel[None, None].to(x)).unflatten(0, x.shape[:2])[:, :, 0]

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a ** 2, mean(b * b) - mean_b ** 2
    covariance = mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + C1) / (mean_a ** 2 + mean_b ** 2 + C1),
            (2 * covariance + C2) / (var_a + var_b + C2))


def flicker(frames: Tensor) -> float:
    """Return the mean absolute difference of successive frames (T, ...)."""
    return float((frames[1:] - frames[:-1]).abs().mean()) if len(frames) > 1 else 0.0


def edge_energy(frames: Tensor) -> float:
    """Return the mean square of the differences of neighbouring pixels of frames (T, C, H, W), along both sides."""
    return float(frames.diff(dim=-1).square().mean() + frames.diff(dim=-2).square().mean())


def edges(source: Tensor, made: Tensor) -> tuple[float, float]:
    """Return the share of the source's edges that the reconstruction keeps, and the share of its own that are true.

    Both are frames (T, C, H, W). An edge is a difference of neighbouring pixels, along width or height, up or down. One
    counts as found in the other picture as far as that has a difference of the same kind, within a pixel around.
    """
    found = [torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)]
    for axis in (-1, -2):
        for sign in (1, -1):
            a, b = (F.relu(sign * frames.diff(dim=axis)) for frames in (source, made))
            for sums, own, other in ((found[0], a, b), (found[1], b, a)):
                near = F.max_pool2d(other, 3, stride=1, padding=1)
                sums += torch.stack((torch.minimum(own, near).sum(), own.sum())).double().cpu()
    kept, true = (float(shared / whole) if whole > 0 else 0.0 for shared, whole in found)
    return kept, true


def detail_apart(source: Tensor, made: Tensor) -> float:
    """Return how far apart the detail of two clips is as a whole, wherever it stands, in grey levels.

    It is the sliced Wasserstein distance of their patches (Karras et al. 2018, section 5), the mean over scales whose
    frames have 16 pixels a side or more. The patches of both clips (T, C, H, W) are projected on random directions,
    sorted, and compared. Detail is what is lost where a frame is halved.
    """
    drawn, distances = torch.Generator().manual_seed(0), []
    directions = torch.randn(source.shape[1] * PATCH ** 2, DIRECTIONS, generator=drawn, dtype=source.dtype)
    directions /= directions.norm(dim=0)
    while min(source.shape[-2:]) >= SMALLEST or not distances:
        height, width = (side - PATCH + 1 for side in source.shape[-2:])
        places = torch.randperm(len(source) * height * width, generator=drawn)[:PATCHES]
        a, b = (_patches(_detail(x), places) @ directions for x in (source, made))
        distances.append((a.sort(dim=0).values - b.sort(dim=0).values).abs().mean())
        source, made = F.avg_pool2d(source, 2), F.avg_pool2d(made, 2)
    return float(torch.stack(distances).mean())


def _detail(frames: Tensor) -> Tensor:
    """Return what frames (T, C, H, W) lose where they are halved and enlarged again."""
    return frames - F.interpolate(F.avg_pool2d(frames, 2), frames.shape[-2:], mode="bilinear")


def _patches(frames: Tensor, places: Tensor) -> Tensor:
    """Return the patches at some places, (n, values of a patch), of frames (T, C, H, W)."""
    windows = frames.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5)
    t, rest = places // (windows.shape[1] * windows.shape[2]), places % (windows.shape[1] * windows.shape[2])
    return windows[t, rest // windows.shape[2], rest % windows.shape[2]].flatten(1)
