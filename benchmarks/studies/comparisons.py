"""Paired comparisons: differences between two cells of a study whose videos share captions and noise."""
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.studies.clips import Clips, distance
from benchmarks.studies.grid import Cell, Study, check_keys
from benchmarks.studies.results import Row
from benchmarks.studies.statistics import mcnemar_p, middle, resampled
from common.errors import ConfigError

AXES = ("sampler", "schedule", "guidance", "steps")


@dataclass(frozen=True)
class Comparison:
    """An entry of the study's `comparisons`.

    Every cell that has one of the given values on each axis in `where` is compared with the cell that has the values of
    `against` instead of its own.
    """

    name: str
    against: Mapping[str, str | int]
    where: Mapping[str, Sequence] = field(default_factory=dict)

    def pairs(self, cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
        """Return the pairs of different cells to compare."""
        known = set(cells)
        chosen = [c for c in cells if all(getattr(c, axis) in values for axis, values in self.where.items())]
        pairs = [(cell, replace(cell, **self.against)) for cell in chosen]
        return [(one, other) for one, other in pairs if one != other and other in known]


def comparisons_of(study: Study) -> list[Comparison]:
    """Return the study's comparisons. Raises ConfigError for an unknown key or axis, or one that compares nothing."""
    found, cells = [], study.cells()
    for i, given in enumerate(study.comparisons):
        where = f"study {study.name}: comparisons[{i}]"
        check_keys(given, ("name", "against", "where"), where)
        if "name" not in given:
            raise ConfigError(f"{where}.name is missing")
        for key in ("against", "where"):
            check_keys(given.get(key, {}), AXES, f"{where}.{key}")
        comparison = Comparison(**given)
        if not comparison.pairs(cells):
            raise ConfigError(f"{where}: no cell of the study has another one to compare with: check names and values")
        found.append(comparison)
    return found


def check_comparisons(study: Study, problem) -> None:
    """Raise ConfigError if a comparison is invalid, or if the problem has no videos to compare."""
    if comparisons_of(study) and not hasattr(problem, "clips"):
        raise ConfigError(f"study {study.name}: comparisons need videos; problem.kind {study.problem['kind']} has "
                          "none")


def compared(comparison: Comparison, rows: Mapping[Cell, Row], clips_of) -> list[Row]:
    """Return a row for each compared pair that is solved, all seeds together; `clips_of(cell)` returns its Clips.

    Differences are the first cell's value minus the second's. Their 95 % intervals come from resampling captions, with
    the same captions for both. `p` is McNemar's for accuracy.
    """
    groups = defaultdict(list)
    for one, other in comparison.pairs(list(rows)):
        groups[replace(one, seed=0), replace(other, seed=0)].append((one, other))
    return [_difference(key, pairs, rows, clips_of) for key, pairs in groups.items()]


def _difference(key: tuple[Cell, Cell], pairs: Sequence[tuple[Cell, Cell]], rows: Mapping[Cell, Row], clips_of) -> Row:
    """Return the row of one pair of combinations, whose seeds are `pairs`."""
    one, other = (joined([clips_of(cell) for cell in cells]) for cells in zip(*pairs, strict=True))
    apart, data = (one.apart(), other.apart()), one.data_apart()
    changes = {"accuracy": lambda i: one.whole[i].mean() - other.whole[i].mean(),
               "distance": lambda i: distance(apart[0][i], data) - distance(apart[1][i], data)}
    row = {axis: " / ".join(dict.fromkeys(str(getattr(cell, axis)) for cell in key)) for axis in AXES}
    row |= {"passes": " / ".join(f"{rows[cell]['passes']:.4g}" for cell in pairs[0]), "videos": one.whole.size}
    count = len(one.combinations)
    for name, change in changes.items():
        low, high = middle(resampled(count, change))
        row |= {name: float(change(np.arange(count))), f"{name}_low": low, f"{name}_high": high}
    return row | {"p": mcnemar_p(one.whole.ravel(), other.whole.ravel())}


def joined(parts: Sequence[Clips]) -> Clips:
    """Return Clips of the same combinations joined along their repeats."""
    right = np.concatenate([part.right for part in parts], axis=1)
    features = np.concatenate([part.features for part in parts], axis=1)
    return Clips(parts[0].combinations, right, features)
