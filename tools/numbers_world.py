"""Clips of the shapes world whose captions give numbers: the shape's radius, its place on the first frame, its speed.

    a red circle of radius 9 at (20, 40) moves right at speed 12 on a black background

Radius and place are in pixels, from the upper left corner; the speed is in pixels a second, at 8 frames a second. All
are whole numbers. Some values and combinations never occur in training, so that it shows whether a model has learned
what a number means or remembers each: two radii and three speeds between others, the starts in one part of the frame,
and the combinations of colour, shape and direction that the first captions leave out too.
"""
import re
from dataclasses import dataclass

import numpy as np

from tools.shapes_world import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    FPS,
    NUM_FRAMES,
    SHAPES,
    coverage_of,
    is_held_out,
    places_of,
    plain_words,
)

RADII = range(6, 14)
SPEEDS = range(2, 17)
SECONDS = (NUM_FRAMES - 1) / FPS  # from the first frame to the last
UNSEEN_RADII = (8, 11)
UNSEEN_SPEEDS = (3, 7, 11)
UNSEEN_PART = ((16, 32), (32, 48))  # x from 16 to 31, y from 32 to 47
KINDS = ("radius", "speed", "place", "combination")  # of what training never shows

_CAPTION = re.compile(
    rf"a ({'|'.join(COLORS)}) ({'|'.join(SHAPES)}) of radius (\d+) at \((\d+), ?(\d+)\) ({'|'.join(DIRECTIONS)}) "
    rf"at speed (\d+) on a ({'|'.join(BACKGROUNDS)}) background"
)


@dataclass(frozen=True)
class NumberedShape:
    """The contents of a caption, which say everything about its clip."""

    color: str
    shape: str
    radius: int
    x: int
    y: int
    motion: str
    speed: int
    background: str

    @property
    def caption(self) -> str:
        return (f"a {self.color} {self.shape} of radius {self.radius} at ({self.x}, {self.y}) {self.motion} "
                f"at speed {self.speed} on a {self.background} background")

    @property
    def travel(self) -> np.ndarray:
        """The way from the first frame to the last, (x, y) in pixels."""
        return np.array(DIRECTIONS[self.motion]) * self.speed * SECONDS

    @property
    def unseen(self) -> tuple[str, ...]:
        """Those of KINDS in which training never shows it."""
        never = (self.radius in UNSEEN_RADII, self.speed in UNSEEN_SPEEDS,
                 all(value in range(*part) for value, part in zip((self.x, self.y), UNSEEN_PART, strict=True)),
                 is_held_out(self.color, self.shape, self.motion))
        return tuple(kind for kind, held in zip(KINDS, never, strict=True) if held)


def parse_numbers(text: str) -> NumberedShape:
    """Return what a caption says. Raises ValueError for another text, or if the shape would leave the frame."""
    match = _CAPTION.fullmatch(plain_words(text))
    if match is None:
        raise ValueError(f"not a caption with numbers: {text!r}; write it like "
                         "'a red circle of radius 9 at (20, 40) moves right at speed 12 on a black background'")
    color, shape, radius, x, y, motion, speed, background = match.groups()
    one = NumberedShape(color, shape, int(radius), int(x), int(y), motion, int(speed), background)
    low, high = places_of(shape, one.radius, one.travel)
    place = np.array([one.x, one.y])
    if one.radius not in RADII or one.speed not in SPEEDS or (place < low).any() or (place > high).any():
        raise ValueError(f"{text!r}: the radius must be {RADII[0]} to {RADII[-1]}, the speed {SPEEDS[0]} to "
                         f"{SPEEDS[-1]}, and the shape must stay in the frame")
    return one


def draw_numbers(rng: np.random.Generator, unseen: str | None = None) -> NumberedShape:
    """Draw what training may show, or what it never shows in one of KINDS only."""
    wanted = () if unseen is None else (unseen,)
    while True:
        one = _draw(rng)
        if one is not None and one.unseen == wanted:
            return one


def _draw(rng: np.random.Generator) -> NumberedShape | None:
    """Draw any contents; None if such a shape fits at no whole place."""
    color, shape, motion, background = (str(rng.choice(list(words))) for words in (COLORS, SHAPES, DIRECTIONS,
                                                                                   BACKGROUNDS))
    radius, speed = int(rng.choice(RADII)), int(rng.choice(SPEEDS))
    low, high = places_of(shape, radius, np.array(DIRECTIONS[motion]) * speed * SECONDS)
    low, high = np.ceil(low).astype(int), np.floor(high).astype(int)
    if (low > high).any():
        return None
    x, y = (int(value) for value in rng.integers(low, high, endpoint=True))
    return NumberedShape(color, shape, radius, x, y, motion, speed, background)


def render_numbers(one: NumberedShape) -> np.ndarray:
    """Return the clip (17, 64, 64, 3) uint8 that a caption describes; there is only one."""
    center = np.array([one.x, one.y]) + np.linspace(0, 1, NUM_FRAMES)[:, None] * one.travel
    coverage = coverage_of(one.shape, center, np.full(NUM_FRAMES, float(one.radius)))[..., None]
    background, color = (np.asarray(value, np.float32) for value in (BACKGROUNDS[one.background], COLORS[one.color]))
    return np.rint(background + coverage * (color - background)).astype(np.uint8)
