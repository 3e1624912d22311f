"""Paired comparisons: differences between two cells of a study whose videos share captions and noise."""
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np

from benchmarks.studies.clips import Clips, distance
from benchmarks.studies.grid import Cell, Study, check_keys, check_named, check_values
from benchmarks.studies.results import Row
from benchmarks.studies.statistics import holm, mcnemar_p, middle, resampled, signed_rank_p
from common.errors import ConfigError
from common.suggestions import nearest
from common.typed import typed

SOLVER_ERROR = "error"
TESTS = {"accuracy": "p", "solver error": "error_p"}  # columns of p-values that every comparison may have
AXES = ("sampler", "schedule", "guidance", "steps")


@dataclass(frozen=True)
class Comparison:
    """An entry of the study's `comparisons`.

    Every cell that has one of the given values on each axis in `where` is compared with the cell that has the values of
    `against` instead of its own. Or, with `among`, all cells are compared with each other that differ on these axes
    alone, and cost as much: the same passes where the grids ask for passes, otherwise the same steps.
    `measures` names further numbers of each video, such as edge_overlap, to compare and test.
    """

    name: str
    against: Mapping[str, str | int] = field(default_factory=dict)
    where: Mapping[str, Sequence[str | int]] = field(default_factory=dict)
    among: Sequence[Literal["sampler", "schedule", "guidance"]] = ()
    measures: Sequence[str] = ()

    @property
    def tests(self) -> dict[str, str]:
        """The columns of p-values, by what they are about."""
        return {**TESTS, **{name: f"{name}_p" for name in self.measures}}

    def pairs(self, cells: Sequence[Cell], budgets: Mapping[Cell, set[int]]) -> list[tuple[Cell, Cell]]:
        """Return the pairs of different cells to compare; `budgets` are the passes that the grids ask for."""
        known = set(cells)
        chosen = [c for c in cells if all(getattr(c, axis) in values for axis, values in self.where.items())]
        if self.among:
            return [pair for pair in combinations(chosen, 2) if self._alike(*pair, budgets)]
        pairs = [(cell, replace(cell, **self.against)) for cell in chosen]
        return [(one, other) for one, other in pairs if one != other and other in known]

    def _alike(self, one: Cell, other: Cell, budgets: Mapping[Cell, set[int]]) -> bool:
        """Return True if two cells differ on the axes of `among` alone, at equal cost."""
        same = [axis for axis in ("sampler", "schedule", "guidance", "seed") if axis not in self.among]
        equal = all(getattr(one, axis) == getattr(other, axis) for axis in same)
        if one in budgets and other in budgets:
            return equal and bool(budgets[one] & budgets[other])
        return equal and one.steps == other.steps


def comparisons_of(study: Study) -> list[Comparison]:
    """Return the study's comparisons. Raises ConfigError for an unknown key or axis, or one that compares nothing."""
    found, cells, budgets = [], study.cells(), study.budgets()
    check_named(study.comparisons, f"study {study.name}: comparisons")
    for i, given in enumerate(study.comparisons):
        where = f"study {study.name}: comparisons[{i}]"
        check_keys(given, ("name", "against", "where", "among", "measures"), where)
        for key in ("against", "where"):
            check_keys(given.get(key, {}), AXES, f"{where}.{key}")
        if ("among" in given) == ("against" in given):
            raise ConfigError(f"{where} needs either against or among")
        comparison = Comparison(**typed(Comparison, given, where))
        check_values(comparison.where, cells, f"{where}.where")
        if not comparison.pairs(cells, budgets):
            raise ConfigError(f"{where}: no cell of the study has another one to compare with: check names and values")
        found.append(comparison)
    return found


def check_comparisons(study: Study, problem) -> None:
    """Raise ConfigError if a comparison is invalid, or if the problem has no videos to compare."""
    found = comparisons_of(study)
    if found and not hasattr(problem, "clips"):
        raise ConfigError(f"study {study.name}: comparisons need videos; problem.kind {study.problem['kind']} has "
                          "none")
    for i, comparison in enumerate(found):
        for name in comparison.measures:
            if name not in problem.of_videos:
                raise ConfigError(f"study {study.name}: comparisons[{i}].measures: {name} is no number of each video"
                                  f"{nearest(name, problem.of_videos)}; they are {', '.join(problem.of_videos)}")


def compared(comparison: Comparison, rows: Mapping[Cell, Row], clips_of, budgets: Mapping[Cell, set[int]]
             ) -> list[Row]:
    """Return a row for each compared pair that is solved, all seeds together; `clips_of(cell)` returns its Clips.

    Differences are the first cell's value minus the second's. Their 95 % intervals come from resampling captions, with
    the same captions for both. `p` is McNemar's for accuracy, `error_p` Wilcoxon's of the solver error's logarithm, and
    that of each of the comparison's measures is Wilcoxon's too; `p_holm`, `error_p_holm` and so on are these corrected
    for the number of rows (Holm).
    """
    groups = defaultdict(list)
    for one, other in comparison.pairs(list(rows), budgets):
        groups[replace(one, seed=0), replace(other, seed=0)].append((one, other))
    found = [_difference(key, pairs, rows, clips_of, comparison.measures) | {"cost": _cost(pairs[0], budgets)}
             for key, pairs in groups.items()]
    for name in comparison.tests.values():
        tested = [row for row in found if name in row]
        for row, corrected in zip(tested, holm([row[name] for row in tested]), strict=True):
            row[f"{name}_holm"] = corrected
    return found


def _cost(pair: tuple[Cell, Cell], budgets: Mapping[Cell, set[int]]) -> str:
    """Return what both cells of a pair cost, in words: the passes that the grids ask for, otherwise the steps."""
    shared = budgets.get(pair[0], set()) & budgets.get(pair[1], set())
    return f"{min(shared)} passes" if shared else " / ".join(dict.fromkeys(f"{cell.steps} steps" for cell in pair))


def told_apart(comparison: Comparison, found: Sequence[Row], level: float = 0.05) -> list[Row]:
    """Return for each cost how many pairs differ by each measure that is tested, corrected for all of that cost (Holm).
    """
    groups = defaultdict(list)
    for row in found:
        groups[row["cost"]].append(row)
    return [{"cost": cost, "pairs": len(members), **{
        f"by {name}": sum(p < level for p in holm([row[column] for row in members]))
        for name, column in comparison.tests.items() if column in members[0]}} for cost, members in groups.items()]


def _difference(key: tuple[Cell, Cell], pairs: Sequence[tuple[Cell, Cell]], rows: Mapping[Cell, Row], clips_of,
                measures: Sequence[str] = ()) -> Row:
    """Return the row of one pair of combinations, whose seeds are `pairs`."""
    one, other = (joined([clips_of(cell) for cell in cells]) for cells in zip(*pairs, strict=True))
    apart, data = (one.apart(), other.apart()), one.data_apart()
    changes = {"accuracy": lambda i: one.whole[i].mean() - other.whole[i].mean(),
               "distance": lambda i: distance(apart[0][i], data) - distance(apart[1][i], data)}
    tests = {"p": mcnemar_p(one.whole.ravel(), other.whole.ravel())}
    for name in dict.fromkeys((*(n for n in (SOLVER_ERROR,) if n in one.numbers), *measures)):
        own, others = one.numbers[name], other.numbers[name]
        changes[name] = lambda i, apart=own - others: mean_without_nan(apart[i])
        difference = (np.log(own / others) if name == SOLVER_ERROR else own - others).ravel()
        tests[f"{name}_p"] = signed_rank_p(difference[~np.isnan(difference)])
    row = {axis: " / ".join(dict.fromkeys(str(getattr(cell, axis)) for cell in key)) for axis in AXES}
    row |= {"passes": " / ".join(f"{rows[cell]['passes']:.4g}" for cell in pairs[0]), "videos": one.whole.size}
    count = len(one.combinations)
    for name, change in changes.items():
        low, high = middle(resampled(count, change))
        row |= {name: float(change(np.arange(count))), f"{name}_low": low, f"{name}_high": high}
    return row | tests


def mean_without_nan(values: np.ndarray) -> float:
    """Return the mean of the values that are numbers, NaN if none is."""
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else math.nan


def joined(parts: Sequence[Clips]) -> Clips:
    """Return Clips of the same combinations joined along their repeats."""
    right = np.concatenate([part.right for part in parts], axis=1)
    features = np.concatenate([part.features for part in parts], axis=1)
    numbers = {name: np.concatenate([part.numbers[name] for part in parts], axis=1) for name in parts[0].numbers}
    return Clips(parts[0].combinations, right, features, numbers)
