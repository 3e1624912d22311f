"""Results as curves: means over seeds with their intervals, and the orders that errors fall with."""
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from errors import ConfigError

from benchmarks.studies.grid import Study, check_keys
from benchmarks.studies.results import Row

COLUMNS = ("sampler", "schedule", "guidance", "steps")
LIMIT = 1e-12  # errors below it are float64's, not the solver's


@dataclass(frozen=True)
class Plot:
    """A plot as the study's file has it: `y` over `x`, a line for each value of `lines`, a panel for each of `panels`,
    of the results `where` each column named has one of the values given. `floor` is a column drawn dashed."""

    name: str
    x: str
    y: str
    title: str = ""
    lines: str = "sampler"
    panels: str | None = None
    where: Mapping[str, Sequence] = None
    floor: str | None = None
    linear: bool = False


def plots_of(study: Study, measures: Sequence[str]) -> list[Plot]:
    """Raises ConfigError for a key, a column or a value that the results will not have."""
    plots = []
    for i, given in enumerate(study.plots):
        where = f"study {study.name}: plots[{i}]"
        check_keys(given, list(Plot.__dataclass_fields__), where)
        for key in ("name", "x", "y"):
            if key not in given:
                raise ConfigError(f"{where}.{key} is missing")
        plot = Plot(**given)
        for column in filter(None, (plot.x, plot.y, plot.lines, plot.panels, plot.floor, *(plot.where or {}))):
            if column not in (*COLUMNS, *measures):
                raise ConfigError(f"{where}: {column} is no column of the results; they are "
                                  f"{', '.join((*COLUMNS, *measures))}")
        plots.append(plot)
    return plots


def chosen_rows(rows: Sequence[Row], plot: Plot) -> list[Row]:
    return [row for row in rows if all(row[key] in values for key, values in (plot.where or {}).items())]


def curve(rows: Sequence[Row], x: str, y: str) -> list[tuple]:
    """(x, mean of y, half of its 95 % interval over seeds) by rising x, or in the order of names."""
    groups = defaultdict(list)
    for row in rows:
        groups[row[x]].append(row[y])
    places = list(groups) if any(isinstance(place, str) for place in groups) else sorted(groups)
    return [(place, *mean_and_interval(groups[place])) for place in places]


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
