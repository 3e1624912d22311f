"""Curves of a study's results: means over seeds with intervals, and fitted orders of convergence."""
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.studies.figures import LIMIT
from benchmarks.studies.grid import Study, check_values
from benchmarks.studies.measures import ENDS
from benchmarks.studies.results import Row
from benchmarks.studies.statistics import mean_and_interval
from common.errors import ConfigError


@dataclass(frozen=True)
class Plot:
    """An entry of the study's `plots`: column `y` over column `x`, in a panel of its own for each of several `y`.

    There is a line for each value of `lines` (one column, or several combined), in the same style in every panel, and a
    panel for each value of the column `panels`. Where x is a column of names, they stand one below the other. Only
    results that have one of the given values in each column of `where` are drawn. `floor` is a column drawn dashed.
    `interval` names the columns of low and high ends, by default y_low and y_high; where there are none, the interval
    of the mean over seeds is drawn. An axis is logarithmic if its measure says so, that of y not if `linear` is true.
    """

    name: str
    x: str
    y: str | Sequence[str]
    title: str = ""
    lines: str | Sequence[str] = "sampler"
    panels: str | None = None
    where: Mapping[str, Sequence[str | int | float]] | None = None
    floor: str | None = None
    interval: Sequence[str] = ()
    linear: bool = False

    def check(self, study: Study, measures: Sequence[str], where: str) -> None:
        """Raise ConfigError for a column that the results will not have."""
        for column in filter(None, (self.x, *self.ys, *self.line_columns, self.panels, self.floor, *self.interval,
                                    *(self.where or {}))):
            if column not in (*study.keys, *measures):
                raise ConfigError(f"{where}: {column} is not a column of the results, which are "
                                  f"{', '.join((*study.keys, *measures))}")
        check_values(self.where or {}, study.cells(), f"{where}.where")
        if len(self.interval) not in (0, 2):
            raise ConfigError(f"{where}.interval names {len(self.interval)} columns; it takes two, low and high")
        if len(self.ys) > 1 and (self.panels or self.interval):
            raise ConfigError(f"{where}: several y have a panel each, so that panels and interval are left out")

    @property
    def ys(self) -> tuple[str, ...]:
        """The columns that are drawn over x."""
        return (self.y,) if isinstance(self.y, str) else tuple(self.y)

    @property
    def line_columns(self) -> tuple[str, ...]:
        """The columns that tell lines apart."""
        return (self.lines,) if isinstance(self.lines, str) else tuple(self.lines)

    def line_of(self, row: Row) -> str:
        """Return the label of the line that a row belongs to."""
        return ", ".join(value_name(column, row[column]) for column in self.line_columns)

    def points(self, rows: Sequence[Row], y: str) -> list[tuple]:
        """Return the points of a line of `y` with the ends of their intervals, as `curve` does."""
        ends = self.interval or [y + end for end in ENDS]
        return curve(rows, self.x, y, ends if rows and all(end in rows[0] for end in ends) else ())


def value_name(column: str, value: str | int | float) -> str:
    """Return a value as text; a number stands before its column, as in "8 steps", but "seed 0"."""
    if isinstance(value, str):
        return value
    return f"{column} {value:g}" if column == "seed" else f"{value:g} {column}"


def chosen_rows(rows: Sequence[Row], plot: Plot) -> list[Row]:
    """Return the rows that the plot's `where` selects."""
    return [row for row in rows if all(row[key] in values for key, values in (plot.where or {}).items())]


def curve(rows: Sequence[Row], x: str, y: str, interval: Sequence[str] = ()) -> list[tuple]:
    """Return points (x, mean of y, distance down and distance up to the ends of its 95 % interval).

    `interval` names the columns with the ends of each row's own; rows are independent, so that their distances to the
    ends add up in squares. Points are sorted by x; if x has names, they keep the order of the rows.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row[x]].append(row)
    places = list(groups) if any(isinstance(place, str) for place in groups) else sorted(groups)
    points = []
    for place in places:
        values = [row[y] for row in groups[place]]
        mean, half = mean_and_interval(values)
        down, up = (half, half) if not interval else (
            math.dist(values, [row[name] for row in groups[place]]) / len(values) for name in interval)
        points.append((place, mean, down, up))
    return points


def slopes(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Return a row for each sampler and schedule: the declared order, and minus the slope of log error in log steps."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["sampler"], row["schedule"]].append(row)
    found, cells = [], {(cell.sampler, cell.schedule): cell for cell in study.cells()}
    for (sampler, schedule), members in groups.items():
        points = [(row["steps"], row["error"]) for row in members if row["error"] > LIMIT]
        if len(points) < 2:
            continue
        steps, errors = np.log(np.array(points)).T
        declared = study.sampler(cells[sampler, schedule]).convergence_order
        found.append({"sampler": sampler, "schedule": schedule, "declared": "-" if declared is None else declared,
                      "fitted": round(-float(np.polyfit(steps, errors, 1)[0]), 2), "steps": f"{min(points)[0]} to "
                      f"{max(points)[0]}"})
    return found
