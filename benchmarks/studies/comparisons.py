"""Whether one combination is better than another, from the same captions and noise: paired differences."""
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
    """As the study's file has it: every cell `where` each axis named has one of the values given, with the cell whose
    axes are those of `against` in place of its own."""

    name: str
    against: Mapping[str, str | int]
    where: Mapping[str, Sequence] = field(default_factory=dict)

    def pairs(self, cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
        known = set(cells)
        chosen = [c for c in cells if all(getattr(c, axis) in values for axis, values in self.where.items())]
        pairs = [(cell, replace(cell, **self.against)) for cell in chosen]
        return [(one, other) for one, other in pairs if one != other and other in known]


def comparisons_of(study: Study) -> list[Comparison]:
    """Raises ConfigError for a key, an axis or a value that the study does not have, or where nothing is compared."""
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
            raise ConfigError(f"{where}: no cell of the study has another one to be compared with; look at its names")
        found.append(comparison)
    return found


def check_comparisons(study: Study, problem) -> None:
    """Raises ConfigError for comparisons that are wrong, or of a problem that has no videos to compare."""
    if comparisons_of(study) and not hasattr(problem, "clips"):
        raise ConfigError(f"study {study.name}: comparisons are of videos; problem.kind {study.problem['kind']} has "
                          "none")


def compared(comparison: Comparison, rows: Mapping[Cell, Row], clips_of) -> list[Row]:
    """A row for each two combinations that were solved, seeds taken together; `clips_of` tells the videos of a cell.

    Differences are the first's less the second's, with 95 % intervals by resampling captions, the same for both; `p` is
    McNemar's for accuracy.
    """
    groups = defaultdict(list)
    for one, other in comparison.pairs(list(rows)):
        groups[replace(one, seed=0), replace(other, seed=0)].append((one, other))
    return [_difference(key, pairs, rows, clips_of) for key, pairs in groups.items()]


def _difference(key: tuple[Cell, Cell], pairs: Sequence[tuple[Cell, Cell]], rows: Mapping[Cell, Row], clips_of) -> Row:
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
    """Clips of the same combinations, their repeats one after the other."""
    return Clips(parts[0].combinations, *(np.concatenate([getattr(part, name) for part in parts], axis=1)
                                          for name in ("right", "features")))
