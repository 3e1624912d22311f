"""Results as curves: means over seeds with their intervals, and the orders that errors fall with."""
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.studies.grid import Study
from benchmarks.studies.results import Row
from common.errors import ConfigError

LIMIT = 1e-12  # errors below it are float64's, not the solver's


@dataclass(frozen=True)
class Plot:
    """A plot as the study's file has it: `y` over `x`, a line for each value of `lines` (one column, or several
    together), the same in every panel; a panel for each of `panels`; of the results `where` each column named has one
    of the values given. `floor` is a column drawn dashed, `interval` the columns of an interval; without it that of the
    mean over seeds is drawn."""

    name: str
    x: str
    y: str
    title: str = ""
    lines: str | Sequence[str] = "sampler"
    panels: str | None = None
    where: Mapping[str, Sequence] = None
    floor: str | None = None
    interval: Sequence[str] = ()
    linear: bool = False

    def check(self, study: Study, measures: Sequence[str], where: str) -> None:
        """Raises ConfigError for a column that the results will not have."""
        for column in filter(None, (self.x, self.y, *self.line_columns, self.panels, self.floor, *self.interval,
                                    *(self.where or {}))):
            if column not in (*study.keys, *measures):
                raise ConfigError(f"{where}: {column} is no column of the results; they are "
                                  f"{', '.join((*study.keys, *measures))}")
        if len(self.interval) not in (0, 2):
            raise ConfigError(f"{where}.interval names {len(self.interval)} columns; it takes two, low and high")


    @property
    def line_columns(self) -> tuple[str, ...]:
        return (self.lines,) if isinstance(self.lines, str) else tuple(self.lines)

    def line_of(self, row: Row) -> str:
        return ", ".join(str(row[column]) for column in self.line_columns)


def chosen_rows(rows: Sequence[Row], plot: Plot) -> list[Row]:
    return [row for row in rows if all(row[key] in values for key, values in (plot.where or {}).items())]


def curve(rows: Sequence[Row], x: str, y: str, interval: Sequence[str] = ()) -> list[tuple]:
    """(x, mean of y, down and up from there to the ends of its 95 % interval) by rising x, or in the order of names."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[x]].append(row)
    places = list(groups) if any(isinstance(place, str) for place in groups) else sorted(groups)
    points = []
    for place in places:
        mean, half = mean_and_interval([row[y] for row in groups[place]])
        low, high = (np.mean([row[name] for row in groups[place]]) for name in interval) if interval else (
            mean - half, mean + half)
        points.append((place, mean, mean - low, high - mean))
    return points


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval is normal; 0 for one value."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(1.96 * spread / math.sqrt(len(values)))


def slopes(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Minus the fitted slope of log error over log steps, beside the declared order, of each sampler and schedule."""
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
