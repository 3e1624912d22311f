"""Features of what a clip of the shapes world shows: the object's place, motion, size, colour and outline."""
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from benchmarks.shapes_judge import background_level, follow_object
from common.seeds import generator_for
from tools.shapes_world import SIZE, Combination, render

# Features and their units; a unit is about the difference between clips, rendered or sampled, of one caption.
UNITS = {
    "x": 8.0, "y": 8.0,  # pixels: the centroid, mean over the frames
    "velocity_x": 0.2, "velocity_y": 0.2,  # pixels per frame: slope of the line fitted to the centroids
    "wander": 0.5,  # pixels: root mean square from that line
    "radius": 1.5,  # pixels: of a circle of the same area, mean over the frames
    "growth": 0.1,  # log of the last radius over the first, on the line fitted to the radii
    "red": 16.0, "green": 16.0, "blue": 16.0,  # 8-bit: mean over pixels more than half covered
    "background": 16.0, "noise": 4.0,  # 8-bit: median of the border; root mean square from it off the object
    "compact": 0.05,  # area^2 / (2 pi second moment): 1 for a circle, 3 / pi for a square
    "lopsided": 0.1,  # skewness of the coverage from top to bottom: 0 for these, not for a triangle
}
DRAWN = ("x", "y", "velocity_x", "velocity_y", "radius", "growth")  # what the world draws at random for each clip
PER_CAPTION = 16  # rendered clips that stand for the data at a caption
MIN_RADIUS = 1.0


def clip_features(frames: np.ndarray) -> np.ndarray:
    """Return the features (F,), each in its unit, of a clip (T, 64, 64, 3) in 0..255; finite even without an object."""
    frames = frames.astype(np.float32)
    level = background_level(frames)
    track = follow_object(frames, level)
    times, steps = np.arange(len(frames)), len(frames) - 1
    velocity, start = np.polyfit(times, track.centroid, 1)
    wander = np.sqrt(np.square(track.centroid - start - times[:, None] * velocity).sum(1).mean())
    radius = np.sqrt(track.area / np.pi)
    slope, first = np.polyfit(times, radius, 1)
    growth = np.log(max(first + slope * steps, MIN_RADIUS) / max(first, MIN_RADIUS))
    inside, outside = track.coverage > 0.5, track.coverage == 0
    color = frames[inside].mean(0) if inside.any() else level
    noise = np.sqrt(np.square(frames[outside] - level).mean()) if outside.any() else 0.0
    values = [*track.centroid.mean(0), *velocity, wander, radius.mean(), growth, *color, level.mean(), noise,
              *_outline(track.coverage)]
    return np.array(values) / np.array(list(UNITS.values()))


def _outline(coverage: np.ndarray) -> tuple[float, float]:
    """Return compactness and vertical skewness of coverage (T, H, W), averaged over the frames."""
    grid = np.arange(SIZE) + 0.5
    area = np.maximum(coverage.sum((1, 2)), 1e-6)
    rows, columns = coverage.sum(2), coverage.sum(1)
    down = grid - (rows @ grid / area)[:, None]
    right = grid - (columns @ grid / area)[:, None]
    square_down = np.maximum((rows * down**2).sum(1), 1e-6)
    second = square_down + (columns * right**2).sum(1)
    skew = (rows * down**3).sum(1) / area / (square_down / area) ** 1.5
    return float((area**2 / (2 * np.pi * second)).mean()), float(skew.mean())


@lru_cache(maxsize=4)
def rendered_features(combinations: tuple[Combination, ...], per_caption: int = PER_CAPTION, seed: int = 0
                      ) -> np.ndarray:
    """Return the features (captions, per_caption, F) of rendered clips."""
    return np.array([[clip_features(render(one, drawing(one, seed, i))) for i in range(per_caption)]
                     for one in combinations])


def drawing(combination: Combination, seed: int, number: int) -> np.random.Generator:
    """Return the random generator of one rendered clip."""
    return np.random.default_rng(generator_for("rendered", combination.caption, seed, number).initial_seed())


def columns_of(names: Sequence[str]) -> list[int]:
    """Return the indices of features by name."""
    return [list(UNITS).index(name) for name in names]
