"""Least-squares fit of an ideal shape of the shapes world to the soft coverage of each frame."""
import math
from dataclasses import dataclass

import numpy as np

from tools.shapes_world import coverage_of

AREA = {"circle": math.pi, "square": 4.0, "triangle": math.sqrt(3)}  # of a shape of radius 1
ROUNDS = 8
STEP = 0.25  # pixels, for central differences: the outline is a ramp of one pixel
FURTHEST = 1.5  # pixels that a round may change a number by


@dataclass(frozen=True)
class Fit:
    """The fitted shapes: center (T, 2) as (x, y) in pixels, radius (T,), and intersection over union (T,)."""

    center: np.ndarray
    radius: np.ndarray
    overlap: np.ndarray


def fitted(coverage: np.ndarray, centroid: np.ndarray, area: np.ndarray, shape: str) -> Fit:
    """Fit a shape to the coverage (T, H, W) of frames by Gauss-Newton, from centroid (T, 2) and area (T,)."""
    found = np.column_stack([centroid, np.sqrt(area / AREA[shape])])
    for _ in range(ROUNDS):
        change = _round(coverage, found, shape)
        found = found + np.clip(change, -FURTHEST, FURTHEST)
        found[:, 2] = found[:, 2].clip(1, 40)
    ideal = _drawn(shape, found)
    overlap = np.minimum(coverage, ideal).sum((1, 2)) / np.maximum(coverage, ideal).sum((1, 2))
    return Fit(found[:, :2], found[:, 2], overlap)


def _round(coverage: np.ndarray, found: np.ndarray, shape: str) -> np.ndarray:
    """Return the change (T, 3) of centre and radius that solves the linearized least squares of each frame."""
    missing = (coverage - _drawn(shape, found)).reshape(len(found), -1)
    slopes = np.stack([(_drawn(shape, found + shift) - _drawn(shape, found - shift)).reshape(len(found), -1)
                       for shift in STEP * np.eye(3)], axis=1) / (2 * STEP)
    normal = slopes @ slopes.swapaxes(1, 2) + 1e-6 * np.eye(3)
    return np.linalg.solve(normal, (slopes @ missing[..., None]))[..., 0]


def _drawn(shape: str, found: np.ndarray) -> np.ndarray:
    return coverage_of(shape, found[:, :2], found[:, 2])
