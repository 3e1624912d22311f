"""Sliding windows of latent frames: videos longer than those that a network was trained with.

Each forward pass is made window by window, and the outputs are blended where windows overlap (as MultiDiffusion does in
space, Bar-Tal et al. 2023, eq. 5). Noise beyond the first window is a permutation of earlier noise, so that windows
resemble each other (FreeNoise, Qiu et al. 2023, section 3.2).

Windows that share no frame decide independently where things are. At high noise, where that is decided, the network can
be given the whole video instead.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from common.errors import ConfigError
from common.tensors import Generators
from sgm.denoiser import BoundDenoiser, Denoiser
from sgm.parameterization import Parameterization


@dataclass(frozen=True)
class TimeWindows:
    """Windows of `size` latent frames, of which neighbours share at least `overlap`; both multiples of `multiple`.

    Raises ConfigError for sizes that give no windows.
    """

    size: int
    overlap: int
    multiple: int = 1  # latent frames of a patch

    def __post_init__(self):
        if not 0 < self.overlap < self.size or self.size % self.multiple or self.overlap % self.multiple:
            raise ConfigError(f"time windows of {self.size} latent frames that overlap by {self.overlap} are not "
                              f"possible; give an overlap below the size, in multiples of {self.multiple}")

    def spans(self, frames: int) -> list[tuple[int, int]]:
        """Return the first and the end frame of each window of a video; the last one ends where the video does."""
        if frames <= self.size:
            return [(0, frames)]
        starts = [*range(0, frames - self.size, self.size - self.overlap), frames - self.size]
        return [(start, start + self.size) for start in starts]

    def weights(self, frames: int) -> torch.Tensor:
        """Return the weight of each window at each frame, (windows, frames) float64, which sum to 1 at every frame.

        They rise linearly over the frames that a window shares with the one before, and fall towards the next.
        """
        spans = self.spans(frames)
        weights = torch.zeros(len(spans), frames, dtype=torch.float64)
        for row, (first, end) in zip(weights, spans, strict=True):
            row[first:end] = 1
        for i, ((_, end), (start, _)) in enumerate(pairwise(spans)):
            rise = torch.arange(1, end - start + 1, dtype=torch.float64) / (end - start + 1)
            weights[i, start:end] *= 1 - rise
            weights[i + 1, start:end] *= rise
        return weights / weights.sum(dim=0)

    def over(self, network: Callable) -> Callable:
        """Return `network` for videos of any length; network(x, timesteps, cond, **inputs) has x's shape.

        Each window is given its own stretch of `cond["concat"]` (B, T, C', H, W), if there is one.
        """
        def windowed(x: torch.Tensor, timesteps: torch.Tensor, cond: Mapping, **inputs) -> torch.Tensor:
            if x.shape[1] <= self.size:
                return network(x, timesteps, cond, **inputs)
            out = torch.zeros_like(x)
            for (first, end), row in zip(self.spans(x.shape[1]), self.weights(x.shape[1]), strict=True):
                weight = row[first:end].to(x).view(-1, 1, 1, 1)
                out[:, first:end] += weight * network(x[:, first:end], timesteps, _stretch(cond, first, end), **inputs)
            return out
        return windowed

    def rescheduled(self, noise: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        """Return noise (B, T, C, H, W) whose frames beyond the first window repeat earlier ones in a random order.

        Each stretch of `size - overlap` frames is a permutation of the stretch before it, so every frame is unit noise
        still. The order is drawn from torch's global state, one generator, or one generator per row.
        """
        rows = generator if isinstance(generator, list | tuple) else [generator] * len(noise)
        return torch.stack([self._rescheduled_row(row, g) for row, g in zip(noise, rows, strict=True)])

    def _rescheduled_row(self, noise: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        frames, stride = len(noise), self.size - self.overlap
        device = "cpu" if generator is None else generator.device
        source = list(range(min(self.size, frames)))
        while len(source) < frames:
            earlier = source[len(source) - self.size:][:stride]
            source += [earlier[i] for i in torch.randperm(len(earlier), generator=generator, device=device).tolist()]
        return noise[source[:frames]]


@dataclass(frozen=True)
class WholeAbove:
    """A denoiser that sees the whole video where sigma / alpha is above `ratio`, and windows of it elsewhere."""

    whole: BoundDenoiser
    windowed: BoundDenoiser
    ratio: float

    def __call__(self, x: torch.Tensor, level: torch.Tensor, *rest, **inputs) -> torch.Tensor:
        """Return the denoised estimate of x (B, T, C, H, W); all rows are at the same `level` (B,)."""
        alpha, sigma = self.whole.parameterization.alpha_sigma(level)
        bound = self.whole if (sigma > self.ratio * alpha).all() else self.windowed
        return bound(x, level, *rest, **inputs)

    def timestep_at(self, ratio: float) -> float | None:
        """Return the network's training timestep at this sigma / alpha; None without a table of timesteps."""
        return self.whole.timestep_at(ratio)


def bind(denoiser: Denoiser, network: Callable, parameterization: Parameterization | str, windows: TimeWindows | None,
         below: float | None) -> Callable:
    """Return a denoiser bound to a network, which sees videos in `windows`, if any.

    With `below` it does so where sigma / alpha is at most that. Raises ConfigError as `Denoiser.bind` does.
    """
    whole = denoiser.bind(network, parameterization)
    if windows is None:
        return whole
    windowed = denoiser.bind(windows.over(network), parameterization)
    return windowed if below is None else WholeAbove(whole, windowed, below)


def _stretch(cond: Mapping, first: int, end: int) -> Mapping:
    return {**cond, "concat": cond["concat"][:, first:end]} if "concat" in cond else cond
