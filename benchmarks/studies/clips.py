"""The videos of a cell as numbers, in a table of their own, and what they say about the cell."""
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from decord import VideoReader

from benchmarks.shapes_judge import ATTRIBUTES, judge_frames, wilson_interval
from benchmarks.studies.clip_features import DRAWN, UNITS, clip_features, columns_of, rendered_features
from benchmarks.studies.statistics import around, frechet_distance, resampled, spread_ratio
from common.errors import DataError
from common.files import whole_file
from tools.shapes_world import Combination, parse_caption

TABLE = "clips.csv"
FURTHEST = 8.0  # units; clips of the data are within 3 or so
RIGHT = tuple(f"{name}_right" for name in ATTRIBUTES)


@dataclass(frozen=True)
class Clips:
    """`repeats` videos of each combination: which attributes are right (combinations, repeats, 4), features
    (combinations, repeats, F)."""

    combinations: tuple[Combination, ...]
    right: np.ndarray
    features: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """(combinations, repeats): right in all attributes."""
        return self.right.all(-1)

    def apart(self) -> np.ndarray:
        """(combinations, repeats, F): features less their mean over the data with the same caption, as far as FURTHEST,
        so that one video without an object does not outweigh all others."""
        return (self.features - self._data().mean(1, keepdims=True)).clip(-FURTHEST, FURTHEST)

    def data_apart(self) -> np.ndarray:
        """The same of rendered clips, (combinations, more repeats, F)."""
        return self._data() - self._data().mean(1, keepdims=True)

    def _data(self) -> np.ndarray:
        return rendered_features(self.combinations)


def distance(apart: np.ndarray, data: np.ndarray) -> float:
    """Frechet distance of features (combinations, repeats, F) from those of data."""
    return frechet_distance(*(x.reshape(-1, x.shape[-1]) for x in (apart, data)))


def diversity(apart: np.ndarray, data: np.ndarray) -> float:
    """Deviation over repeats of the features that the world draws at random, relative to that of data."""
    drawn = columns_of(DRAWN)
    return spread_ratio(apart[..., drawn], data[..., drawn])


def judged(combinations: Sequence[Combination], videos: Sequence[Path]) -> Clips:
    """Videos in the order of combinations, as often through all of them as there are repeats."""
    frames = [VideoReader(str(video), num_threads=1)[:].asnumpy() for video in videos]
    right = [[judge_frames(shown).matches(combinations[i % len(combinations)])[name] for name in ATTRIBUTES]
             for i, shown in enumerate(frames)]
    by_repeat = [np.array(values).reshape(-1, len(combinations), len(values[0])).swapaxes(0, 1)
                 for values in (right, [clip_features(shown) for shown in frames])]
    return Clips(tuple(combinations), *by_repeat)


def measured(clips: Clips) -> dict[str, float]:
    """Accuracy, distance and diversity with 95 % intervals: Wilson's, and by resampling captions."""
    low, high = wilson_interval(int(clips.whole.sum()), clips.whole.size)
    apart, data, count = clips.apart(), clips.data_apart(), len(clips.combinations)
    values = {"accuracy": float(clips.whole.mean()), "accuracy_low": low, "accuracy_high": high}
    for statistic in (distance, diversity):
        name, value = statistic.__name__, statistic(apart, data)
        low, high = around(value, resampled(count, lambda chosen, of=statistic: of(apart[chosen], data)))
        values |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return values | {name: float(clips.right[..., i].mean()) for i, name in enumerate(ATTRIBUTES)}


def write_clips(path: Path, clips: Clips) -> None:
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["caption", "repeat", *RIGHT, *UNITS])
        for i, combination in enumerate(clips.combinations):
            for repeat, (right, features) in enumerate(zip(clips.right[i], clips.features[i], strict=True)):
                table.writerow([combination.caption, repeat, *map(int, right), *(f"{x:.6g}" for x in features)])


def read_clips(path: Path) -> Clips:
    """Raises DataError for a file that is missing or damaged."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        captions = list(dict.fromkeys(row["caption"] for row in rows))
        right, features = (np.array([[float(row[name]) for name in names] for row in rows]).reshape(
            len(captions), -1, len(names)) for names in (RIGHT, list(UNITS)))
        return Clips(tuple(map(parse_caption, captions)), right.astype(bool), features)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no table of judged videos ({error}): remove results.csv, so that its cell is "
                        "solved again") from error
