"""Least-squares fit of an ideal shape of the shapes world to the soft coverage of each frame."""
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from tools.shapes_world import coverage_of

AREA = {"circle": math.pi, "square": 4.0, "triangle": math.sqrt(3)}  # of a shape of radius 1
Seen = Callable[[np.ndarray], np.ndarray]
ROUNDS = 8
STEP = 0.25  # pixels, for central differences: the outline is a ramp of one pixel
KERNEL = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256  # a deviation of 1.4 pixels
REACH = len(KERNEL) // 2
FURTHEST = 1.5  # pixels that a round may change a number by


@dataclass(frozen=True)
class Fit:
    """The fitted shapes: center (T, 2) as (x, y) in pixels, radius (T,), and intersection over union (T,)."""

    center: np.ndarray
    radius: np.ndarray
    overlap: np.ndarray


def fitted(coverage: np.ndarray, centroid: np.ndarray, area: np.ndarray, shape: str) -> Fit:
    """Fit a shape to the coverage (T, H, W) of frames, from centroid (T, 2) and area (T,).

    Centre and radius are those of the softened fit. The overlap is the largest, and so that of the sharp one, if it is
    better.
    """
    soft = _gauss_newton(coverage, np.column_stack([centroid, np.sqrt(area / AREA[shape])]), shape, _softened)
    sharp = _gauss_newton(coverage, soft, shape, np.asarray)
    overlap = np.maximum(*(_overlap(coverage, _drawn(shape, found)) for found in (soft, sharp)))
    return Fit(soft[:, :2], soft[:, 2], overlap)


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.minimum(one, other).sum((1, 2)) / np.maximum(one, other).sum((1, 2))


def _gauss_newton(coverage: np.ndarray, found: np.ndarray, shape: str, seen: Seen) -> np.ndarray:
    """Return the centres and radii (T, 3) of the least squares of differences as `seen` has them."""
    for _ in range(ROUNDS):
        found = found + np.clip(_change(coverage, found, shape, seen), -FURTHEST, FURTHEST)
        found[:, 2] = found[:, 2].clip(1, 40)
    return found


def _change(coverage: np.ndarray, found: np.ndarray, shape: str, seen: Seen) -> np.ndarray:
    """Return the change (T, 3) of centre and radius that solves the linearized least squares of each frame."""
    missing = seen(coverage - _drawn(shape, found)).reshape(len(found), -1)
    slopes = np.stack([seen(_drawn(shape, found + shift) - _drawn(shape, found - shift)).reshape(len(found), -1)
                       for shift in STEP * np.eye(3)], axis=1) / (2 * STEP)
    normal = slopes @ slopes.swapaxes(1, 2) + 1e-6 * np.eye(3)
    return np.linalg.solve(normal, (slopes @ missing[..., None]))[..., 0]


def _softened(coverage: np.ndarray) -> np.ndarray:
    """Return coverage (T, H, W) after a blur, under which the place of an edge follows from several pixels.

    From the one pixel that a sharp edge crosses, a blurred edge would seem to be elsewhere, by up to 0.3 pixels.
    """
    down, across = (_blur(size) for size in coverage.shape[1:])
    return down @ coverage @ across


@cache
def _blur(size: int) -> np.ndarray:
    """Return the blur of a line of pixels as a symmetric matrix (size, size)."""
    apart = np.subtract.outer(np.arange(size), np.arange(size))
    return np.where(abs(apart) <= REACH, KERNEL[np.clip(apart + REACH, 0, 2 * REACH)], 0)


def _drawn(shape: str, found: np.ndarray) -> np.ndarray:
    return coverage_of(shape, found[:, :2], found[:, 2])
