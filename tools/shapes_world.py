"""A synthetic data set of captioned clips: one plain shape that moves, grows or shrinks on a plain background.

A model of a few million parameters can learn it in hours on a CPU. Clips combine a colour, a shape and a motion, so
that combinations held out of training show whether a model composes or only remembers.

A clip is ``(17, 64, 64, 3)`` uint8, 8 frames a second. A shape's radius `r` (7 to 13 pixels on every frame) is half
its width, whatever the shape: a circle of radius `r`, an upright square of side `2r`, an equilateral triangle of
side `2r` standing on its base. Positions are those of the shape's centroid, which does not move as the shape grows.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

COLORS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 240),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "purple": (160, 60, 200),
}
OUTSIDE = {"orange": (240, 140, 30)}  # not in the data set: a colour for fine-tuning a model later
PALETTE = COLORS | OUTSIDE
BACKGROUNDS = {"black": (0, 0, 0), "gray": (90, 90, 90)}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}  # (x, y)
MOTIONS = (*DIRECTIONS, "grows", "shrinks")

SIZE = 64
NUM_FRAMES = 17
FPS = 8
RADIUS_RANGE = (7.0, 13.0)
SPEED_RANGE = (1.1, 1.8)  # pixels a frame; the fastest still fits the largest shape
MIN_GROWTH = 1.62  # least ratio of the largest to the smallest radius, a little above the nominal 1.6
MARGIN = 1.5  # pixels between the shape and the border, wider than the antialiased edge at a sharp corner

_CAPTION = re.compile(
    rf"a ({'|'.join(PALETTE)}) ({'|'.join(SHAPES)}) ({'|'.join(MOTIONS)}) on a ({'|'.join(BACKGROUNDS)}) background"
)


def is_held_out(color: str, shape: str, motion: str) -> bool:
    """Return True if this combination (18 of the 108) never occurs in training, on any background."""
    return color in COLORS and (list(COLORS).index(color) + SHAPES.index(shape) + MOTIONS.index(motion)) % 6 == 0


@dataclass(frozen=True)
class Combination:
    """The contents of a caption; everything else about a clip (position, size, speed) is drawn at random."""

    color: str
    shape: str
    motion: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.color} {self.shape} {self.motion} on a {self.background} background"

    @property
    def held_out(self) -> bool:
        return is_held_out(self.color, self.shape, self.motion)


def plain_words(text: str) -> str:
    """Return a caption in small letters, with single spaces and no full stop."""
    return " ".join(text.lower().split()).rstrip(".")


def parse_caption(text: str) -> Combination:
    """Return the combination that a caption names. Raises ValueError if the text is not a caption of this data set."""
    match = _CAPTION.fullmatch(plain_words(text))
    if match is None:
        raise ValueError(f"not a caption of the shapes world: {text!r}; write it like "
                         "'a red circle moves left on a black background'")
    return Combination(*match.groups())


def all_combinations(colors: Iterable[str] = COLORS) -> list[Combination]:
    """Return all 216 combinations: 108 of colour, shape and motion, each on both backgrounds, in caption order."""
    return [Combination(*parts) for parts in itertools.product(colors, SHAPES, MOTIONS, BACKGROUNDS)]


def render(combination: Combination, rng: np.random.Generator) -> np.ndarray:
    """Return a clip (17, 64, 64, 3) uint8; the same combination and generator state give the same pixels."""
    radius = _draw_radius(combination.motion, rng)
    center = _draw_path(combination, radius.max(), rng)
    coverage = coverage_of(combination.shape, center, radius)[..., None]
    color = np.asarray(PALETTE[combination.color], np.float32)
    background = np.asarray(BACKGROUNDS[combination.background], np.float32)
    return np.rint(background + coverage * (color - background)).astype(np.uint8)


def _draw_radius(motion: str, rng: np.random.Generator) -> np.ndarray:
    """Return the radius on each frame, (17,)."""
    low, high = RADIUS_RANGE
    if motion in DIRECTIONS:
        return np.full(NUM_FRAMES, rng.uniform(low, high))
    start = rng.uniform(low, high / MIN_GROWTH)
    growing = np.linspace(start, start * rng.uniform(MIN_GROWTH, high / start), NUM_FRAMES)
    return growing if motion == "grows" else growing[::-1]


def _draw_path(combination: Combination, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return the centroid on each frame, (17, 2) as (x, y), such that the shape at its largest stays in view."""
    direction = np.asarray(DIRECTIONS.get(combination.motion, (0, 0)))
    travel = direction * rng.uniform(*SPEED_RANGE) * (NUM_FRAMES - 1)
    start = rng.uniform(*places_of(combination.shape, radius, travel))
    return start + np.linspace(0, 1, NUM_FRAMES)[:, None] * travel


def extent_of(shape: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a shape reaches from its centroid: to the left and up, to the right and down, as (x, y)."""
    if shape == "triangle":
        return radius * np.array([1, 2 / np.sqrt(3)]), radius * np.array([1, 1 / np.sqrt(3)])
    return np.full(2, radius), np.full(2, radius)


def places_of(shape: str, radius: float, travel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest (x, y) at which a shape can start so that it stays in view as it travels."""
    before, after = extent_of(shape, radius)
    return before + MARGIN - np.minimum(travel, 0), SIZE - after - MARGIN - np.maximum(travel, 0)


def coverage_of(shape: str, center: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the share of each pixel inside the shape, (17, 64, 64), with a ramp one pixel wide across the outline."""
    pixels = np.arange(SIZE, dtype=np.float32) + 0.5
    x = pixels[None, None, :] - center[:, 0, None, None].astype(np.float32)
    y = pixels[None, :, None] - center[:, 1, None, None].astype(np.float32)
    r = radius[:, None, None].astype(np.float32)
    if shape == "circle":
        return np.clip(0.5 + r - np.sqrt(x * x + y * y), 0, 1)
    if shape == "square":
        return np.clip(0.5 + r - np.abs(x), 0, 1) * np.clip(0.5 + r - np.abs(y), 0, 1)
    # The triangle's three sides are r / sqrt(3) from its centroid; y points down, so the base is below.
    side = np.abs(x) * np.float32(np.sqrt(3) / 2) - y / 2
    return np.clip(0.5 + r / np.float32(np.sqrt(3)) - np.maximum(side, y), 0, 1)
