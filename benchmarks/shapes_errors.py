"""Errors of 64 x 64 videos of the shapes world by degree: place, speed, size, colour and edge, beside right or wrong.

    python -m benchmarks.shapes_errors OUTPUT_DIR …       every video below, against the prompt in its metadata.json
    python -m benchmarks.shapes_errors --floors           of rendered clips, through the mp4 and through the autoencoder

The ideal shape of the caption, as the world draws it, is fitted to each frame by least squares of the soft coverage,
both blurred: centre and radius. A frame's own contrast is the measure of its coverage. The five errors follow from the
fit. For a clip that the world could have drawn they are 0, and the overlap is 1:

- place: pixels, root mean square of the centre from its course, straight along the motion or at rest
- speed: pixels per frame by which that course is too slow, too fast, or not at rest
- size: pixels, root mean square of the radius from one that stays, or grows or shrinks evenly, between 7 and 13
- color: CIE 1976 difference (delta E) of the object's core from the caption's colour
- edge: overlap, intersection over union, of the coverage with the fitted shape

A clip in which no object can be followed has none of them, and counts as lost.
"""
import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np

from benchmarks.command_line import count, refuse_given
from benchmarks.markdown import table
from benchmarks.shapes_fit import Fit, fitted
from benchmarks.shapes_judge import MIN_SEEN_FRAMES, Track, background_level, follow_object, judge_folder
from common.console import run
from common.errors import ConfigError
from common.listing import listed
from common.seeds import generator_for
from media.clips import read_frames
from media.videos import VIDEO, write_video
from tools.shapes_world import (
    DIRECTIONS,
    FPS,
    PALETTE,
    RADIUS_RANGE,
    SPEED_RANGE,
    Combination,
    all_combinations,
    render,
)

logger = logging.getLogger(__name__)

UNITS = {"place_error": "px", "speed_error": "px a frame", "size_error": "px", "color_error": "delta E",
         "edge_overlap": "IoU"}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65


def errors_of(frames: np.ndarray, expected: Combination) -> dict[str, float]:
    """Return the errors of a clip (T, 64, 64, 3) in 0..255 of what a caption asks for; all NaN without an object."""
    frames = frames.astype(np.float32)
    track = follow_object(frames, background_level(frames))
    if track.seen.mean() < MIN_SEEN_FRAMES:
        return dict.fromkeys(UNITS, float("nan"))
    coverage = steadied(frames, track)[track.seen]
    fit = fitted(coverage, track.centroid[track.seen], coverage.sum((1, 2)), expected.shape)
    times = np.flatnonzero(track.seen)
    colors = [np.median(frame[core > 0.9], axis=0) if (core > 0.9).any() else frame[core > 0.5].mean(0)
              for frame, core in zip(frames[track.seen], coverage, strict=True)]
    asked = lab(np.array(PALETTE[expected.color], float))
    return {"place_error": place_error(fit, times, expected.motion),
            "speed_error": speed_error(fit, times, expected.motion),
            "size_error": size_error(fit, times, expected.motion),
            "color_error": float(np.linalg.norm(lab(np.array(colors)) - asked, axis=-1).mean()),
            "edge_overlap": float(fit.overlap.mean())}


def steadied(frames: np.ndarray, track: Track) -> np.ndarray:
    """Return the coverage (T, H, W) with each frame's own contrast as its measure, as a share of that of all frames.

    An object that flickers has an error of colour then, and none of size.
    """
    distance = np.linalg.norm(frames - background_level(frames), axis=-1)
    cores = np.array([np.median(of_frame[core > core.max() / 2]) if core.any() else 0.0
                      for of_frame, core in zip(distance, track.coverage, strict=True)])
    share = np.maximum(cores / np.median(cores[track.seen]), 0.1)[:, None, None]
    return np.where(track.coverage > 0, np.clip(distance / (track.contrast * share), 0, 1), 0)


def place_error(fit: Fit, times: np.ndarray, motion: str) -> float:
    """Return the root mean square distance of the centres from the best course of the motion."""
    course = np.tile(fit.center.mean(0), (len(times), 1))
    if motion in DIRECTIONS:
        axis = int(DIRECTIONS[motion][0] == 0)
        course[:, axis] = np.polyval(np.polyfit(times, fit.center[:, axis], 1), times)
    return float(np.sqrt(np.square(fit.center - course).sum(1).mean()))


def speed_error(fit: Fit, times: np.ndarray, motion: str) -> float:
    """Return by how many pixels a frame the fitted velocity is not one that the world draws for the motion."""
    velocity = np.polyfit(times, fit.center, 1)[0]
    if motion not in DIRECTIONS:
        return float(np.linalg.norm(velocity))
    along = float(velocity @ np.array(DIRECTIONS[motion]))
    return abs(along - float(np.clip(along, *SPEED_RANGE)))


def size_error(fit: Fit, times: np.ndarray, motion: str) -> float:
    """Return the root mean square distance of the radii from the nearest course that the world draws."""
    if motion in DIRECTIONS:
        course = np.full(len(times), np.clip(fit.radius.mean(), *RADIUS_RANGE))
    else:
        line = np.polyfit(times, fit.radius, 1)
        ends = np.clip(np.polyval(line, times[[0, -1]]), *RADIUS_RANGE)
        course = np.interp(times, times[[0, -1]], ends)
    return float(np.sqrt(np.square(fit.radius - course).mean()))


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return the CIE 1976 L*a*b* (..., 3) of 8-bit sRGB colours (..., 3), for the white of D65."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / TO_XYZ.sum(1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def summary(found: Sequence[dict[str, float]]) -> dict[str, str]:
    """Return the mean and the 95th percentile (of the overlap the 5th) of each error over clips that are not lost."""
    row = {"videos": str(len(found)), "lost": str(sum(np.isnan(one["edge_overlap"]) for one in found))}
    for name, unit in UNITS.items():
        values = np.array([one[name] for one in found])
        values = values[~np.isnan(values)]
        worst = np.quantile(values, 0.05 if name == "edge_overlap" else 0.95) if len(values) else np.nan
        row[f"{name.replace('_', ' ')}, {unit}"] = f"{values.mean():.3g} ({worst:.3g})" if len(values) else "-"
    return row


def floors(clips: int) -> dict[str, list[dict[str, float]]]:
    """Return the errors of rendered clips, written as mp4 only, and encoded and decoded before."""
    from benchmarks.small_model import configured, load_engine  # imported late: SwissArmyTransformer takes seconds
    from benchmarks.studies.trained_model import reconstructed

    args = configured("t2v", ())
    engine, found = load_engine(args), {"rendered": [], "rendered, encoded and decoded": []}
    order = np.random.default_rng(5).permutation(np.array(all_combinations()))
    with TemporaryDirectory() as folder:
        for i in range(clips):
            one = order[i % len(order)]
            frames = render(one, np.random.default_rng(generator_for("floors", i).initial_seed()))
            write_video(Path(folder) / VIDEO, [frames], FPS)
            paths = (Path(folder) / VIDEO, reconstructed(engine, args, frames, Path(folder) / "decoded"))
            for path, errors in zip(paths, found.values(), strict=True):
                errors.append(errors_of(read_frames(str(path)), one))
    return found


def errors_below(folder: Path) -> list[dict[str, float]]:
    """Return the errors of the videos below a folder; those that are left out are counted."""
    judged, left_out = judge_folder(folder)
    if left_out:
        logger.warning("%s: %d video(s) left out, whose prompt is none of the shapes world: %s", folder, len(left_out),
                       listed(left_out))
    return [errors_of(read_frames(str(one.path)), one.expected) for one in judged]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="output folders of sampling")
    parser.add_argument("--floors", action="store_true", help="measure what no model can be expected to be below")
    parser.add_argument("--clips", type=count, default=216, help="rendered clips for the floors (default: %(default)s)")
    options = parser.parse_args(argv)
    if not options.folders and not options.floors:
        raise ConfigError("give output folders of sampling, or --floors")
    if not options.floors:
        refuse_given(parser, options, ("clips",), "without --floors")
    found = {str(folder): errors_below(folder) for folder in options.folders}
    found |= floors(options.clips) if options.floors else {}
    rows = [{"": name, **summary(errors)} for name, errors in found.items()]
    sys.stdout.write(f"{table(list(rows[0]), [list(row.values()) for row in rows])}\n")


if __name__ == "__main__":
    sys.exit(run(main))
