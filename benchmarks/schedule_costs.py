"""The search for a schedule of n steps: dynamic programming over the errors of single steps from a converged run.

As in GITS (Chen et al. 2024) the levels are chosen among candidates on which a converged run is known. Here the solver
is DPM-Solver++(2M), whose step depends on two levels, so that a state of the search is a pair of levels.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

LOWEST, HIGHEST = 0.0292, 1000.0  # sigma / alpha: the released networks' least noise, and nearly zero SNR


@dataclass(frozen=True)
class Trajectory:
    """A converged run on N candidate levels: x / alpha and the estimates of x0 (N, B, ...), and its end (B, ...)."""

    sigmas: Sequence[float]
    x: torch.Tensor
    denoised: torch.Tensor
    end: torch.Tensor

    def after_first(self) -> "Trajectory":
        """Return this run without its first level."""
        return replace(self, sigmas=self.sigmas[1:], x=self.x[1:], denoised=self.denoised[1:])


def candidates(count: int, highest: float = 80.0) -> list[float]:
    """Return candidate sigmas: `HIGHEST`, and even steps of log-SNR from `highest` to `LOWEST`."""
    return [HIGHEST, *np.geomspace(highest, LOWEST, count - 1).tolist()]


def refined(sigmas: Sequence[float], parts: int) -> list[float]:
    """Return the sigmas with each interval divided into `parts` even steps of log-SNR."""
    inner = [np.geomspace(high, low, parts + 1)[:-1] for high, low in pairwise(sigmas)]
    return [*np.concatenate(inner).tolist(), sigmas[-1]]


def step_errors(run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors (N, N, N) of steps to j from i with the estimate of k before, and (N,) of the last step from i.

    Index k = i stands for a first step. An error is the root mean square distance of the step's end from the converged
    run. The last step, to the clean end, takes the estimate as it is, whatever was before.
    """
    lamb, count = -np.log(run.sigmas), len(run.sigmas)
    found = np.full((count, count, count), np.inf)
    for i in range(count):
        for k in range(i + 1):
            slope = 0 * run.denoised[i] if k == i else (run.denoised[i] - run.denoised[k]) / (2 * (lamb[i] - lamb[k]))
            for j in range(i + 1, count):
                estimate = run.denoised[i] + slope * (lamb[j] - lamb[i])
                kept = run.sigmas[j] / run.sigmas[i]
                error = estimate + kept * (run.x[i] - estimate) - run.x[j]
                found[k, i, j] = float(error.square().mean().sqrt())
    ends = (run.denoised - run.end).flatten(1).square().mean(1).sqrt().double().cpu().numpy()
    return found, ends


def weighted(found: np.ndarray, sigmas: Sequence[float], power: float) -> np.ndarray:
    """Return errors (..., N) of steps to each sigma over (1 + sigma^2)^(power / 2), as costs that may be added.

    With power 1 they count in units of the latents at equal variance.
    """
    return found / (1 + np.square(sigmas)) ** (power / 2)


def best_levels(costs: np.ndarray, ends: np.ndarray, steps: int) -> list[int]:
    """Return the levels, `steps` of them from the first candidate on, whose steps cost least in sum."""
    count = len(ends)
    best = np.full((count, count), np.inf)  # by the last two levels
    best[0, 0] = 0.0
    before = []
    for number in range(steps - 1):
        # through[k, i, j] is the cost up to j; a first step is from (0, 0), no later one from (i, i)
        through = best[:, :, None] + costs
        if number:
            through[np.arange(count), np.arange(count)] = np.inf
        before.append(through.argmin(axis=0))
        best = through.min(axis=0)
    whole = best + ends[None, :]
    i, j = np.unravel_index(int(whole.argmin()), whole.shape)
    chosen = [int(j), int(i)] if steps > 1 else [0]
    for earlier in before[:0:-1]:
        chosen.append(int(earlier[chosen[-1], chosen[-2]]))
    return chosen[::-1]
