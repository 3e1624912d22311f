"""Judged videos of a cell: their attributes and features, a CSV table of them, and the cell's measures."""
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.shapes_errors import UNITS as UNITS_OF_ERRORS
from benchmarks.shapes_errors import errors_of
from benchmarks.shapes_judge import ATTRIBUTES, judge_frames, wilson_interval
from benchmarks.studies.clip_features import DRAWN, UNITS, clip_features, columns_of, rendered_features
from benchmarks.studies.statistics import around, frechet_distance, middle, resampled, spread_ratio
from common.errors import DataError
from common.files import whole_file
from media.clips import read_frames
from tools.shapes_world import Combination, parse_caption

TABLE = "clips.csv"
FURTHEST = 8.0  # units; clips of the data lie within about 3
RIGHT = tuple(f"{name}_right" for name in ATTRIBUTES)


@dataclass(frozen=True)
class Clips:
    """Judged videos, `repeats` of each combination: `right` attributes (combinations, repeats, 4), `features`
    (combinations, repeats, F), and `numbers` (combinations, repeats), such as errors, NaN where there is none."""

    combinations: tuple[Combination, ...]
    right: np.ndarray
    features: np.ndarray
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def whole(self) -> np.ndarray:
        """(combinations, repeats), True where all attributes are right."""
        return self.right.all(-1)

    def apart(self) -> np.ndarray:
        """Return the features (combinations, repeats, F) minus their mean over data with the same caption.

        Differences are clipped to FURTHEST, so that one video without an object does not outweigh all others.
        """
        return (self.features - self._data().mean(1, keepdims=True)).clip(-FURTHEST, FURTHEST)

    def data_apart(self) -> np.ndarray:
        """Return the features of rendered clips minus the same mean, (combinations, PER_CAPTION, F)."""
        return self._data() - self._data().mean(1, keepdims=True)

    def _data(self) -> np.ndarray:
        return rendered_features(self.combinations)


def distance(apart: np.ndarray, data: np.ndarray) -> float:
    """Return the Frechet distance between features (combinations, repeats, F) and those of data."""
    return frechet_distance(apart.reshape(-1, apart.shape[-1]), data.reshape(-1, data.shape[-1]))


def diversity(apart: np.ndarray, data: np.ndarray) -> float:
    """Return the deviation over repeats of the features that the world draws at random, relative to that of data."""
    drawn = columns_of(DRAWN)
    return spread_ratio(apart[..., drawn], data[..., drawn])


def judged(combinations: Sequence[Combination], videos: Sequence[Path],
           numbers: Mapping[str, np.ndarray] = MappingProxyType({})) -> Clips:
    """Judge videos; their order is all combinations of the first repeat, then all of the second, and so on.

    `numbers` (N,) of each video in this order are kept beside the errors by degree.
    """
    right, features, errors = [], [], []
    for i, video in enumerate(videos):
        frames, asked = read_frames(str(video)), combinations[i % len(combinations)]
        matches = judge_frames(frames).matches(asked)
        right.append([matches[name] for name in ATTRIBUTES])
        features.append(clip_features(frames))
        errors.append(errors_of(frames, asked))

    def by_combination(values: Sequence | np.ndarray) -> np.ndarray:
        values = np.array(values)
        return values.reshape(-1, len(combinations), *values.shape[1:]).swapaxes(0, 1)

    whole = {**numbers, **{name: [one[name] for one in errors] for name in UNITS_OF_ERRORS}}
    return Clips(tuple(combinations), by_combination(right), by_combination(features),
                 {name: by_combination(values) for name, values in whole.items()})


def measured(clips: Clips) -> dict[str, float]:
    """Return accuracy, distance and diversity with 95 % intervals (Wilson's for accuracy, otherwise by resampling
    captions), and the accuracy of each attribute."""
    low, high = wilson_interval(int(clips.whole.sum()), clips.whole.size)
    apart, data, count = clips.apart(), clips.data_apart(), len(clips.combinations)
    values = {"accuracy": float(clips.whole.mean()), "accuracy_low": low, "accuracy_high": high}
    for statistic in (distance, diversity):
        name, value = statistic.__name__, statistic(apart, data)
        low, high = around(value, resampled(count, lambda chosen, of=statistic: of(apart[chosen], data)))
        values |= {name: value, f"{name}_low": low, f"{name}_high": high}
    for name, numbers in clips.numbers.items():
        values |= mean_of(name, numbers)
    return values | {name: float(clips.right[..., i].mean()) for i, name in enumerate(ATTRIBUTES)}


def mean_of(name: str, numbers: np.ndarray) -> dict[str, float]:
    """Return the mean of numbers (combinations, repeats) with its 95 % interval by resampling captions, without NaN."""
    sums, counts = np.nansum(numbers, axis=1), (~np.isnan(numbers)).sum(1)
    if not counts.any():
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    low, high = middle(resampled(len(sums), lambda i: sums[i].sum() / max(counts[i].sum(), 1)))
    return {name: float(sums.sum() / counts.sum()), f"{name}_low": low, f"{name}_high": high}


def write_clips(path: Path, clips: Clips) -> None:
    """Write a line for each video."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["caption", "repeat", *RIGHT, *UNITS, *clips.numbers])
        for i, combination in enumerate(clips.combinations):
            for repeat, (right, features) in enumerate(zip(clips.right[i], clips.features[i], strict=True)):
                numbers = [values[i, repeat] for values in clips.numbers.values()]
                table.writerow([combination.caption, repeat, *map(int, right),
                                *(f"{x:.6g}" for x in (*features, *numbers))])


def read_clips(path: Path) -> Clips:
    """Read what `write_clips` wrote. Raises DataError for a file that is missing or damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        captions = list(dict.fromkeys(row["caption"] for row in rows))

        def columns(names: Sequence[str]) -> np.ndarray:
            values = np.array([[float(row[name]) for name in names] for row in rows])
            return values.reshape(len(captions), -1, len(names))

        right, features = columns(RIGHT).astype(bool), columns(list(UNITS))
        others = [name for name in rows[0] if name not in ("caption", "repeat", *RIGHT, *UNITS)]
        return Clips(tuple(map(parse_caption, captions)), right, features,
                     {name: columns([name])[..., 0] for name in others})
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} is not a table of judged videos ({error}): remove its folder, so that the cell is "
                        "solved again") from error
