"""Judge of what a 64 x 64 video of the shapes world shows, by image analysis of the decoded file alone.

    python benchmarks/shapes_judge.py VIDEO.mp4 … [--expect "a red circle moves left on a black background"]
    python benchmarks/shapes_judge.py OUTPUT_DIR         every video below, against the prompt in its metadata.json
                                      [--require 0.8]    fails if a smaller share is right

The judge shares only words and colours with the generator. It follows one object against a plain background: the soft
coverage of each pixel (so that blur moves no edge), area and centroid in every frame, the colour of the core, and the
overlap with an upright circle, square or triangle of the same area and centroid. An attribute without a clear margin
is `unclear`, which counts as wrong.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

from benchmarks.markdown import table
from common.console import run
from common.errors import ConfigError, DataError
from media.clips import UnreadableClip, read_frames
from media.records import RECORD, parsed_record
from tools.shapes_world import BACKGROUNDS, PALETTE, SIZE, Combination, parse_caption

ATTRIBUTES = ("color", "shape", "motion", "background")
MIN_FRAMES = 9
Asked = TypeVar("Asked")

# Distances are Euclidean in 8-bit RGB. Half the distance is 61 between the closest colours of the world (blue and
# purple), 41 between yellow and orange, a colour outside the world, and 78 between the backgrounds.
MAX_COLOR_DISTANCE = 55.0
MAX_BACKGROUND_DISTANCE = 35.0
MAX_BACKGROUND_NOISE = 15.0  # root mean square away from the object
MIN_CONTRAST = 60.0
AREA_RANGE = (45.0, 900.0)  # pixels; the world's own shapes have 85 to 676
MAX_STRAY = 0.15  # pixels of the mask outside the object, as a share of its area
MIN_SEEN_FRAMES = 0.85
MIN_VOTES = 0.65  # share of frames that must agree on the shape, and on the colour
MIN_OVERLAP = 0.8  # intersection over union with the template
MIN_OVERLAP_LEAD = 0.03
MIN_SPEED = 0.8  # pixels a frame
MIN_GROWTH = 1.4  # ratio of radii
MAX_OTHER_GROWTH = 1.25  # of an object that is to count as moving
MAX_SIDEWAYS = 0.35  # as a share of the displacement along the main axis
MAX_DRIFT = 5.0  # pixels over the clip, of an object that is to count as growing
MIN_STEADY = 0.75  # share of steps in the direction of the whole motion


@dataclass(frozen=True)
class Verdict:
    """The attributes that a clip shows, None where unclear, and the `measures` they were decided by."""

    color: str | None
    shape: str | None
    motion: str | None
    background: str | None
    measures: dict[str, float]

    def matches(self, expected: Combination) -> dict[str, bool]:
        """Return for each attribute whether it is as expected."""
        return {name: getattr(self, name) == getattr(expected, name) for name in ATTRIBUTES}

    def __str__(self) -> str:
        said = {name: getattr(self, name) or "unclear" for name in ATTRIBUTES}
        return "{color} {shape}, {motion}, {background} background".format(**said)


@dataclass(frozen=True)
class Track:
    """One object through a clip: soft coverage (T, H, W), frames where it was `seen` (T,), area (T,), centroid (T, 2),
    and its contrast with the background."""

    coverage: np.ndarray
    seen: np.ndarray
    area: np.ndarray
    centroid: np.ndarray
    contrast: float


def judge_frames(frames: np.ndarray) -> Verdict:
    """Judge a clip (T, 64, 64, 3), uint8 or float in 0..255, T >= 9. Raises ValueError for another shape."""
    if frames.ndim != 4 or frames.shape[0] < MIN_FRAMES or frames.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(f"frames have shape {frames.shape}, expected (at least {MIN_FRAMES}, {SIZE}, {SIZE}, 3)")
    frames = frames.astype(np.float32)
    level = background_level(frames)
    track = follow_object(frames, level)
    background, noise = judge_background(frames, level, track)
    measures = {
        "background_noise": noise,
        "contrast": track.contrast,
        "seen": float(track.seen.mean()),
        "border_coverage": float(_border(track.coverage[..., None]).max()),
    }
    if track.seen.mean() < MIN_SEEN_FRAMES:
        return Verdict(None, None, None, background, measures)
    color = judge_color(frames, track, measures)
    shape = judge_shape(track, measures)
    motion = judge_motion(track, measures)
    return Verdict(color, shape, motion, background, measures)


def background_level(frames: np.ndarray) -> np.ndarray:
    """Return the background's colour (3,) in 8-bit RGB: the median of the border over all frames."""
    return np.median(_border(frames).reshape(-1, 3), axis=0)


def follow_object(frames: np.ndarray, level: np.ndarray) -> Track:
    """Find in each frame the connected region that differs most from the background colour `level`."""
    distance = np.linalg.norm(frames - level, axis=-1)
    contrast = float(np.median(np.quantile(distance, 0.99, axis=(1, 2))))
    coverage = np.clip(distance / max(contrast, MIN_CONTRAST), 0, 1)
    mask = coverage > 0.5
    piece = connected_piece(mask, coverage)
    area_of_mask = piece.sum((1, 2))
    stray = (mask & ~piece).sum((1, 2)) / np.maximum(area_of_mask, 1)
    # Up to two pixels of soft edge belong to the object; anything further away is background noise.
    coverage = np.where(dilate(dilate(piece)), coverage, 0)
    area = coverage.sum((1, 2))
    seen = (area >= AREA_RANGE[0]) & (area <= AREA_RANGE[1]) & (stray <= MAX_STRAY)
    return Track(coverage, seen & (contrast >= MIN_CONTRAST), area, centroids(coverage), contrast)


def judge_background(frames: np.ndarray, level: np.ndarray, track: Track) -> tuple[str | None, float]:
    """Return the background's name (None if unclear) and its noise away from the object."""
    around = track.coverage > 0
    for _ in range(2):
        around = dilate(around)
    if around.all():
        return None, math.inf
    noise = float(np.sqrt(((frames[~around] - level) ** 2).mean()))
    name, distance = _nearest(level, BACKGROUNDS)
    plain = distance <= MAX_BACKGROUND_DISTANCE and noise <= MAX_BACKGROUND_NOISE
    return (name if plain else None), noise


def judge_color(frames: np.ndarray, track: Track, measures: dict[str, float]) -> str | None:
    """Return the colour of the object's core, None if unclear; adds to `measures`."""
    inside = track.coverage > 0.5
    core = ~dilate(dilate(~inside))
    medians = []
    for frame, deep, shallow in zip(frames[track.seen], core[track.seen], inside[track.seen], strict=True):
        medians.append(np.median(frame[deep if deep.sum() >= 5 else shallow], axis=0))
    name, distance = _nearest(np.median(medians, axis=0), PALETTE)
    votes = np.mean([_nearest(median, PALETTE)[0] == name for median in medians])
    measures |= {"color_distance": distance, "color_votes": float(votes)}
    return name if distance <= MAX_COLOR_DISTANCE and votes >= MIN_VOTES else None


def judge_shape(track: Track, measures: dict[str, float]) -> str | None:
    """Return the shape whose template overlaps best, None if unclear; adds to `measures`."""
    overlaps = {name: _overlap(track, inside) for name, inside in TEMPLATES.items()}
    order = sorted(overlaps, key=lambda name: -overlaps[name].mean())
    first, second = overlaps[order[0]], overlaps[order[1]]
    votes = float(np.mean(first >= np.max(list(overlaps.values()), axis=0)))
    lead = float(first.mean() - second.mean())
    measures |= {"overlap": float(first.mean()), "overlap_lead": lead, "shape_votes": votes}
    clear = first.mean() >= MIN_OVERLAP and lead >= MIN_OVERLAP_LEAD and votes >= MIN_VOTES
    return order[0] if clear else None


def judge_motion(track: Track, measures: dict[str, float]) -> str | None:
    """Return the motion by lines fitted to radius and centroid, None if unclear; adds to `measures`."""
    times = np.flatnonzero(track.seen)
    steps = len(track.seen) - 1
    radius = np.sqrt(track.area[times])
    slope, intercept = np.polyfit(times, radius, 1)
    growth = max(intercept + slope * steps, 1e-3) / max(intercept, 1e-3)
    way = np.polyfit(times, track.centroid[times], 1)[0] * steps
    axis = int(np.argmax(np.abs(way)))
    measures |= {"growth": float(growth), "speed": float(abs(way[axis]) / steps)}
    if max(growth, 1 / growth) >= MIN_GROWTH and np.abs(way).max() <= MAX_DRIFT:
        return ("grows" if growth > 1 else "shrinks") if _steady(radius) else None
    moved = abs(way[axis]) >= MIN_SPEED * steps and abs(way[1 - axis]) <= MAX_SIDEWAYS * abs(way[axis])
    if not moved or max(growth, 1 / growth) > MAX_OTHER_GROWTH or not _steady(track.centroid[times, axis]):
        return None
    return (("moves left", "moves right"), ("moves up", "moves down"))[axis][int(way[axis] > 0)]


def _steady(values: np.ndarray) -> bool:
    """Return True if the values mostly change in one direction, over pairs of steps because a decoder's frames come in
    groups."""
    change = values[2:] - values[:-2]
    return float(np.mean(np.sign(change) == np.sign(values[-1] - values[0]))) >= MIN_STEADY


def _in_circle(x, y, area):
    return x * x + y * y <= area / math.pi


def _in_square(x, y, area):
    return np.maximum(np.abs(x), np.abs(y)) <= np.sqrt(area) / 2


def _in_triangle(x, y, area):
    height = np.sqrt(area * math.sqrt(3))
    return (y <= height / 3) & (np.abs(x) * math.sqrt(3) - y <= 2 * height / 3)


TEMPLATES = {"circle": _in_circle, "square": _in_square, "triangle": _in_triangle}  # around the centroid, y down


def _overlap(track: Track, inside, samples: int = 3) -> np.ndarray:
    """Return the intersection over union with a template of the object's area and centroid, for each seen frame."""
    # A steeper ramp around the same half-coverage outline undoes most of a blur.
    found = np.clip(2 * track.coverage[track.seen] - 0.5, 0, 1)
    area = found.sum((1, 2))[:, None, None]
    center = centroids(found)
    template = np.zeros((len(center), SIZE, SIZE), np.float32)
    offsets = (np.arange(samples) + 0.5) / samples
    for down in offsets:
        for right in offsets:
            x = (np.arange(SIZE) + right)[None, None, :] - center[:, 0, None, None]
            y = (np.arange(SIZE) + down)[None, :, None] - center[:, 1, None, None]
            template += inside(x, y, area)
    template /= samples**2
    return np.minimum(found, template).sum((1, 2)) / np.maximum(found, template).sum((1, 2))


def connected_piece(mask: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Return the connected region of each frame's mask (T, H, W) at the place of the most coverage."""
    padded = np.pad(coverage, ((0, 0), (2, 2), (2, 2)))
    local = sum(padded[:, row : row + SIZE, col : col + SIZE] for row in range(5) for col in range(5))
    best = np.where(mask, local, -1).reshape(len(mask), -1).argmax(1)
    piece = np.zeros(mask.shape, bool)
    piece.reshape(len(mask), -1)[np.arange(len(mask)), best] = True
    piece &= mask
    while True:
        grown = dilate(piece) & mask
        if (grown == piece).all():
            return piece
        piece = grown


def centroids(coverage: np.ndarray) -> np.ndarray:
    """Return the centroids (T, 2) of coverage (T, H, W), x and y in pixels."""
    grid = np.arange(SIZE) + 0.5
    weight = np.maximum(coverage.sum((1, 2)), 1e-6)
    return np.stack([coverage.sum(1) @ grid / weight, coverage.sum(2) @ grid / weight], axis=1)


def dilate(mask: np.ndarray) -> np.ndarray:
    """Return masks (T, H, W) grown by the four neighbours of every pixel."""
    wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return mask | wide[:, 2:, 1:-1] | wide[:, :-2, 1:-1] | wide[:, 1:-1, 2:] | wide[:, 1:-1, :-2]


def _border(frames: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of every frame, (T, 4 * 64, channels)."""
    return np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], axis=1)


def _nearest(color: np.ndarray, palette: dict[str, tuple]) -> tuple[str, float]:
    """Return the palette's nearest name and its distance."""
    distances = {name: float(np.linalg.norm(color - np.asarray(value))) for name, value in palette.items()}
    name = min(distances, key=distances.get)
    return name, distances[name]


def judge_file(path: str | Path) -> Verdict:
    """Judge an mp4 file. Raises DataError if it cannot be decoded or does not have the world's size."""
    try:
        frames = read_frames(str(path))
    except UnreadableClip as problem:
        raise DataError(f"video {path} cannot be decoded ({problem}): sample it again") from problem
    try:
        return judge_frames(frames)
    except ValueError as problem:
        raise DataError(f"video {path}: {problem}") from problem


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % confidence interval of the share right / count (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True)
class Judged:
    """A judged video and the combination that its prompt asked for."""

    path: Path
    expected: Combination
    verdict: Verdict

    @property
    def right(self) -> dict[str, bool]:
        """The attributes, and "all", each True if it is as expected."""
        matches = self.verdict.matches(self.expected)
        return {**matches, "all": all(matches.values())}


def asked_below(folder: str | Path, parse: Callable[[str], Asked]) -> tuple[list[tuple[Path, Asked]], list[Path]]:
    """Return the videos below a folder with what `parse` makes of their prompts, and those without such a prompt.

    The prompt is that of the metadata.json beside a video, before `@@`. `parse` raises ValueError for other prompts.
    """
    found, left_out = [], []
    for path in sorted(Path(folder).rglob(RECORD)):
        videos = sorted(path.parent.glob("*.mp4"))
        try:
            found += [(video, parse(str(parsed_record(path).get("prompt")).split("@@")[0])) for video in videos]
        except (ValueError, DataError):
            left_out += videos
    return found, left_out


def judge_folder(output_dir: str | Path) -> tuple[list[Judged], list[Path]]:
    """Judge every video below `output_dir` against the "prompt" of the metadata.json beside it.

    Returns the judged videos, and those skipped because their record is damaged or its prompt does not follow the
    world's grammar. Raises DataError if none is judged.
    """
    found, left_out = asked_below(output_dir, parse_caption)
    judged = [Judged(video, expected, judge_file(video)) for video, expected in found]
    if not judged:
        raise DataError(f"no video with a prompt of the shapes world below {output_dir}: give a sampling output folder")
    return judged, left_out


def summarize(judged: list[Judged]) -> dict[str, dict]:
    """Count right videos per attribute and for "all", among combinations seen in training, unseen ones, and both."""
    groups = {
        "seen": [one for one in judged if not one.expected.held_out],
        "unseen": [one for one in judged if one.expected.held_out],
        "both": judged,
    }
    summary = {}
    for group, members in groups.items():
        counts = {name: sum(one.right[name] for one in members) for name in (*ATTRIBUTES, "all")}
        shares = {
            name: {"right": right, "interval": wilson_interval(right, len(members))} for name, right in counts.items()
        }
        summary[group] = {"videos": len(members), **shares}
    return summary


def format_summary(summary: dict[str, dict]) -> str:
    """Return a Markdown table of the percentages right, with 95 % Wilson intervals."""
    names = (*ATTRIBUTES, "all")
    rows = []
    for group, row in summary.items():
        if row["videos"]:
            cells = []
            for name in names:
                low, high = row[name]["interval"]
                cells.append(f"{100 * row[name]['right'] / row['videos']:.1f} ({100 * low:.0f}–{100 * high:.0f})")
            rows.append([group, str(row["videos"]), *cells])
    return table(["combinations", "videos", *names], rows)


def report_folder(folder: Path) -> list[Judged]:
    """Judge a folder, print its mistakes and summary, and return the judged videos."""
    judged, left_out = judge_folder(folder)
    for one in judged:
        if not one.right["all"]:
            print(f"{one.path}: expected {one.expected.caption!r}, shows {one.verdict}")
    mistakes = Counter(name for one in judged for name in ATTRIBUTES if not one.right[name])
    print(f"{len(judged)} videos judged, {len(left_out)} skipped, mistakes {dict(mistakes)}\n")
    print(format_summary(summarize(judged)))
    print("\nby degree: python -m benchmarks.shapes_errors", folder)
    return judged


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="VIDEO_OR_FOLDER",
                        help="mp4 files, or output folders of sampling")
    parser.add_argument("--expect", type=parse_caption, help="caption that the video files should match")
    parser.add_argument("--require", type=float, default=0.0, metavar="SHARE",
                        help="exit with 1 if a smaller share of the videos in folders has all attributes right")
    args = parser.parse_args(argv)
    folders = [path for path in args.paths if path.is_dir()]
    if not 0 <= args.require <= 1:
        raise ConfigError(f"--require is {args.require}; it must be a share from 0 to 1")
    if args.require and len(folders) < len(args.paths) or args.expect and folders:
        raise ConfigError("--require is of the videos in folders, and --expect of single videos; give one kind alone")
    wrong, judged = 0, []
    for path in args.paths:
        if path.is_dir():
            judged += report_folder(path)
            continue
        verdict = judge_file(path)
        wrong += args.expect is not None and not all(verdict.matches(args.expect).values())
        print(f"{path}: {verdict}  {({key: round(value, 2) for key, value in verdict.measures.items()})}")
    right = sum(one.right["all"] for one in judged)
    if right < args.require * len(judged):
        print(f"{right} of {len(judged)} videos have all attributes right; {args.require:.0%} are required")
        wrong += 1
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run(main))
