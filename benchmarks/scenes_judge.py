"""Judge of videos of captions with numbers or relations (see tools/grammars.py), by image analysis of frames alone.

Of one shape with numbers it measures radius, place on the first frame, and speed, by the fit of the asked shape
(shapes_fit), and decides colour and background as shapes_judge does. Of two shapes it finds those of the world's
colours that fill enough of each frame, follows each by its colour, and measures centroid and radius. A shape is the one
whose fit overlaps best: these are smaller than those of the first captions, where an mp4 already rounds corners.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.shapes_fit import Fit, fitted
from benchmarks.shapes_judge import (
    MAX_COLOR_DISTANCE,
    MIN_CONTRAST,
    MIN_FRAMES,
    MIN_SEEN_FRAMES,
    Track,
    background_level,
    centroids,
    connected_piece,
    dilate,
    follow_object,
    judge_background,
    judge_color,
)
from tools.grammars import Scene
from tools.numbers_world import NumberedShape
from tools.relations_world import RelatedShapes, holds
from tools.shapes_world import COLORS, DIRECTIONS, FPS, SHAPES, SIZE

NUMBERS = ("radius", "x", "y", "speed")
ATTRIBUTES = {NumberedShape: ("color", "shape", "motion", "background"),
              RelatedShapes: ("colors", "shapes", "relation", "background")}
MIN_CORE = 20  # pixels of one colour that are taken for a shape; the world's smallest has 62
MIN_OVERLAP = 0.7  # intersection over union with the fitted shape; 0.77 and more in rendered clips as mp4
MIN_OVERLAP_LEAD = 0.025  # 0.05 and more there
MIN_VOTES = 0.65  # share of frames that must agree on the shape
MIN_SPEED = 1.0  # pixels a second of what counts as moving; the world's slowest has 2
MAX_SIDEWAYS = 0.35  # as a share of the way along the direction
RELATION_SHARE = 0.75  # of what the world keeps between two shapes, see `holds`


@dataclass(frozen=True)
class Judged:
    """What a clip shows of what its caption asks for: `right` of each attribute, and `numbers` as measured.

    The numbers are NaN if no object can be followed: the clip is lost.
    """

    right: Mapping[str, bool]
    numbers: Mapping[str, float] = field(default_factory=dict)
    lost: bool = False

    @property
    def all_right(self) -> bool:
        return all(self.right.values())


def judge_scene(frames: np.ndarray, scene: Scene) -> Judged:
    """Judge a clip (T, 64, 64, 3) in 0..255, T >= 9, against a scene. Raises ValueError for another shape."""
    if frames.ndim != 4 or frames.shape[0] < MIN_FRAMES or frames.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"frames have shape {frames.shape}, expected (at least {MIN_FRAMES}, {SIZE}, {SIZE}, 3)")
    frames = frames.astype(np.float32)
    return _judge_numbers(frames, scene) if isinstance(scene, NumberedShape) else _judge_relation(frames, scene)


def _judge_numbers(frames: np.ndarray, scene: NumberedShape) -> Judged:
    level = background_level(frames)
    track = follow_object(frames, level)
    names = ATTRIBUTES[NumberedShape]
    if not _is_seen(track):
        return Judged(dict.fromkeys(names, False), dict.fromkeys(NUMBERS, float("nan")), lost=True)
    shape, fit = fit_shape(track, scene.shape)
    times = np.flatnonzero(track.seen)
    velocity, start = np.polyfit(times, fit.center, 1)
    along = np.array(DIRECTIONS[scene.motion])
    right = (judge_color(frames, track, {}) == scene.color, shape == scene.shape,
             _direction(velocity) == scene.motion, judge_background(frames, level, track)[0] == scene.background)
    numbers = (fit.radius.mean(), *start, velocity @ along * FPS)
    return Judged(dict(zip(names, right, strict=True)),
                  {name: float(value) for name, value in zip(NUMBERS, numbers, strict=True)})


def _direction(velocity: np.ndarray) -> str | None:
    """Return the direction of a velocity (x, y) in pixels a frame, None if it is slow or oblique."""
    axis = int(np.argmax(np.abs(velocity)))
    if abs(velocity[axis]) * FPS < MIN_SPEED or abs(velocity[1 - axis]) > MAX_SIDEWAYS * abs(velocity[axis]):
        return None
    way = np.zeros(2, int)
    way[axis] = np.sign(velocity[axis])
    return next(name for name, direction in DIRECTIONS.items() if direction == tuple(way))


def _judge_relation(frames: np.ndarray, scene: RelatedShapes) -> Judged:
    level = background_level(frames)
    found = follow_colors(frames, level)
    tracks = [found.get(scene.color), found.get(scene.other_color)]
    both = [track for track in tracks if track is not None and _is_seen(track)]
    union = np.max([np.zeros(frames.shape[:3]), *(track.coverage for track in found.values())], axis=0)
    everything = Track(union, np.ones(len(frames), bool), union.sum((1, 2)), centroids(union), MIN_CONTRAST)
    right = {"colors": len(both) == 2 and len(found) == 2, "shapes": False, "relation": False,
             "background": judge_background(frames, level, everything)[0] == scene.background}
    if len(both) < 2:
        return Judged(right, lost=not found)
    (shape, one), (other_shape, other) = fit_shape(both[0], scene.shape), fit_shape(both[1], scene.other_shape)
    right["shapes"] = (shape, other_shape) == (scene.shape, scene.other_shape)
    ratio = float(one.radius.mean() / other.radius.mean())
    way = other.center.mean(0) - one.center.mean(0)
    right["relation"] = holds(scene.relation, np.zeros(2), way, ratio, RELATION_SHARE)
    return Judged(right, {"x": float(way[0]), "y": float(way[1]), "ratio": ratio})


def follow_colors(frames: np.ndarray, level: np.ndarray) -> dict[str, Track]:
    """Return a track of each of the world's colours that fills at least MIN_CORE pixels of most frames."""
    names = [name for name, color in COLORS.items() if np.linalg.norm(color - level) > MIN_CONTRAST]
    distance = np.stack([np.linalg.norm(frames - np.array(COLORS[name]), axis=-1) for name in names])
    nearest = distance.argmin(0)
    cores = {name: (nearest == i) & (distance[i] <= MAX_COLOR_DISTANCE) for i, name in enumerate(names)}
    cores = {name: core for name, core in cores.items() if np.median(core.sum((1, 2))) >= MIN_CORE}
    return {name: _follow(frames, level, core, [c for other, c in cores.items() if other != name])
            for name, core in cores.items()}


def _follow(frames: np.ndarray, level: np.ndarray, core: np.ndarray, others: Sequence[np.ndarray]) -> Track:
    """Follow the largest connected part of a colour's pixels (T, 64, 64), apart from the pixels of other colours."""
    piece = connected_piece(core, core.astype(np.float32))
    toward = np.median(frames[piece], axis=0) - level
    coverage = np.clip((frames - level) @ toward / (toward @ toward), 0, 1)
    around, taken = piece, np.any([np.zeros_like(core), *others], axis=0)
    for _ in range(3):
        around = dilate(around) & ~taken
    coverage = np.where(around, coverage, 0)
    stray = (core & ~around).sum((1, 2))
    seen = (piece.sum((1, 2)) >= MIN_CORE / 2) & (stray < MIN_CORE)
    return Track(coverage, seen, coverage.sum((1, 2)), centroids(coverage), float(np.linalg.norm(toward)))


def _is_seen(track: Track) -> bool:
    return bool(track.seen.mean() >= MIN_SEEN_FRAMES)


def fit_shape(track: Track, asked: str) -> tuple[str | None, Fit]:
    """Return the shape whose fit overlaps best, None if that is unclear, and the fit of the asked shape."""
    seen = track.seen
    fits = {name: fitted(track.coverage[seen], track.centroid[seen], track.area[seen], name) for name in SHAPES}
    overlaps = np.array([fits[name].overlap for name in SHAPES])
    *_, second, best = np.argsort(overlaps.mean(1))
    lead = overlaps[best].mean() - overlaps[second].mean()
    votes = np.mean(overlaps.argmax(0) == best)
    clear = overlaps[best].mean() >= MIN_OVERLAP and lead >= MIN_OVERLAP_LEAD and votes >= MIN_VOTES
    return (SHAPES[best] if clear else None), fits[asked]
