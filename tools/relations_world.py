"""Clips of the shapes world whose captions relate two shapes at rest.

    a red circle left of a blue square on a black background
    a green triangle above a white circle on a gray background
    a yellow square larger than a purple square on a black background

The shapes have different colours and do not touch. Of a relation of place the way between the centroids is mostly in
its direction; sizes are drawn freely. The larger shape has at least 1.4 times the other's radius; places are drawn
freely. A sixth of the combinations of relation, colour and shape of the first shape never occurs in training.
"""
import re
from dataclasses import dataclass

import numpy as np

from tools.shapes_world import (
    BACKGROUNDS,
    COLORS,
    NUM_FRAMES,
    SHAPES,
    coverage_of,
    extent_of,
    places_of,
    plain_words,
)

RELATIONS = ("left of", "above", "larger than")
RADIUS_RANGE = (6.0, 11.0)
SMALLER_RANGE = (6.0, 7.5)  # of the smaller shape of "larger than"
RATIO_RANGE = (1.4, 1.8)
GAP = 3.0  # least pixels between the shapes' boxes

_OBJECT = rf"a ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(rf"{_OBJECT} ({'|'.join(RELATIONS)}) {_OBJECT} on a ({'|'.join(BACKGROUNDS)}) background")


@dataclass(frozen=True)
class RelatedShapes:
    """The contents of a caption; sizes and places are drawn at random."""

    color: str
    shape: str
    relation: str
    other_color: str
    other_shape: str
    background: str

    @property
    def caption(self) -> str:
        return (f"a {self.color} {self.shape} {self.relation} a {self.other_color} {self.other_shape} "
                f"on a {self.background} background")

    @property
    def unseen(self) -> tuple[str, ...]:
        """("combination",) if training never shows it, else ()."""
        number = list(COLORS).index(self.color) + SHAPES.index(self.shape) + RELATIONS.index(self.relation)
        return () if number % 6 else ("combination",)


def parse_relation(text: str) -> RelatedShapes:
    """Return what a caption says. Raises ValueError for another text, or for two shapes of one colour."""
    match = _CAPTION.fullmatch(plain_words(text))
    if match is None or match[1] == match[4]:
        raise ValueError(f"not a caption of two shapes of different colours: {text!r}; write it like "
                         "'a red circle left of a blue square on a black background'")
    return RelatedShapes(*match.groups())


def draw_relation(rng: np.random.Generator, unseen: str | None = None) -> RelatedShapes:
    """Draw a combination that training may show or, with unseen="combination", one that it never shows."""
    wanted = () if unseen is None else (unseen,)
    while True:
        color, other_color = (str(name) for name in rng.permutation(list(COLORS))[:2])
        shape, relation, other_shape, background = (str(rng.choice(list(words))) for words in (
            SHAPES, RELATIONS, SHAPES, BACKGROUNDS))
        one = RelatedShapes(color, shape, relation, other_color, other_shape, background)
        if one.unseen == wanted:
            return one


def holds(relation: str, place: np.ndarray, other_place: np.ndarray, ratio: float, share: float = 1.0) -> bool:
    """Return True if two centroids (x, y), and the ratio of the radii, are as a relation asks for.

    With a `share` below 1, that share of what the world keeps between the two is enough.
    """
    way = other_place - place
    if relation == "larger than":
        return bool(ratio >= 1 + share * (RATIO_RANGE[0] - 1))
    axis = 0 if relation == "left of" else 1
    return bool(way[axis] > share * abs(way[1 - axis]))


def render_relation(one: RelatedShapes, rng: np.random.Generator) -> np.ndarray:
    """Return a clip (17, 64, 64, 3) uint8; the same contents and generator state give the same pixels."""
    radii, places = _draw_shapes(one, rng)
    background = np.asarray(BACKGROUNDS[one.background], np.float32)
    frame: np.ndarray = np.broadcast_to(background, (1, 64, 64, 3))
    for color, shape, radius, place in zip((one.color, one.other_color), (one.shape, one.other_shape), radii, places,
                                           strict=True):
        coverage = coverage_of(shape, place[None], np.array([radius]))[..., None]
        frame = frame + coverage * (np.asarray(COLORS[color], np.float32) - background)
    return np.rint(frame).astype(np.uint8).repeat(NUM_FRAMES, axis=0)


def _draw_shapes(one: RelatedShapes, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return both radii and both centroids, drawn again until the relation holds and the shapes are apart."""
    shapes = (one.shape, one.other_shape)
    while True:
        radii = rng.uniform(*RADIUS_RANGE, size=2)
        if one.relation == "larger than":
            smaller = rng.uniform(*SMALLER_RANGE)
            radii = np.array([smaller * rng.uniform(*RATIO_RANGE), smaller])
        places = [rng.uniform(*places_of(shape, radius, np.zeros(2)))
                  for shape, radius in zip(shapes, radii, strict=True)]
        if holds(one.relation, places[0], places[1], radii[0] / radii[1]) and _apart(shapes, radii, places):
            return radii, places


def _apart(shapes: tuple[str, str], radii: np.ndarray, places: list[np.ndarray]) -> bool:
    """Return True if there are GAP pixels between the shapes' upright boxes along x or along y."""
    (low, high), (other_low, other_high) = ((place - extent_of(shape, radius)[0], place + extent_of(shape, radius)[1])
                                            for shape, radius, place in zip(shapes, radii, places, strict=True))
    return bool((np.maximum(low - other_high, other_low - high) >= GAP).any())
