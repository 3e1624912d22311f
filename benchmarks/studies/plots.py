"""The plots of a study, read from its file and drawn: curves of results, losses, and plots of its parts."""
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.studies.base import Problem
from benchmarks.studies.curves import Plot, chosen_rows, curve
from benchmarks.studies.figures import panels, save
from benchmarks.studies.grid import Cell, Study, VariantCell, check_keys
from benchmarks.studies.losses import Losses
from benchmarks.studies.pictures import Scales, Trajectories
from benchmarks.studies.results import Row
from common.errors import ConfigError

MARKERS = "osD^v<>Px*"
KINDS = {"curves": Plot, "losses": Losses, "scales": Scales, "trajectories": Trajectories}
Kind = Plot | Losses | Scales | Trajectories


def plots_of(study: Study, measures: Sequence[str]) -> list[Kind]:
    """Return the study's plots. Raises ConfigError for an unknown kind, key, column or name, or a missing key."""
    plots = []
    for i, given in enumerate(study.plots):
        where = f"study {study.name}: plots[{i}]"
        kind = KINDS.get(given.get("kind", "curves")) if isinstance(given, dict) else Plot
        if kind is None:
            raise ConfigError(f"{where}.kind {given['kind']} is none of {', '.join(KINDS)}")
        keys = kind.__dataclass_fields__
        check_keys(given, ["kind", *keys], where)
        for key, known in keys.items():
            if key not in given and known.default is MISSING:
                raise ConfigError(f"{where}.{key} is missing")
        plots.append(kind(**{key: value for key, value in given.items() if key != "kind"}))
        plots[-1].check(study, measures, where)
    return plots


def draw(plot: Kind, study: Study, problem: Problem, rows: Mapping[Cell | VariantCell, Row], path: Path) -> bool:
    """Write a plot as PNG. Returns False if there is no result for it yet."""
    if isinstance(plot, Scales | Trajectories):
        plot.draw(study, path)
        return True
    if isinstance(plot, Losses):
        return plot.draw(problem, list(rows), path)
    return draw_curves(plot, chosen_rows(list(rows.values()), plot), path)


def draw_curves(plot: Plot, rows: Sequence[Row], path: Path) -> bool:
    """Write curves as PNG, a panel for each value of `plot.panels`. Returns False without rows."""
    if not rows:
        return False
    values = list(dict.fromkeys(row[plot.panels] for row in rows)) if plot.panels else [None]
    lines = list(dict.fromkeys(plot.line_of(row) for row in rows))
    grid = panels([title_of(plot, value) for value in values])
    for axes, value in zip(grid, values, strict=True):
        draw_panel(axes, plot, lines, [row for row in rows if value is None or row[plot.panels] == value])
    save(grid, path)
    return True


def title_of(plot: Plot, value: str | int | float | None) -> str:
    """Return the title of the panel of a value; a number is followed by its column, as in "8 steps"."""
    if value is None:
        return plot.title
    return value if isinstance(value, str) else f"{value:g} {plot.panels}"


def draw_panel(axes: Axes, plot: Plot, lines: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw those of `lines` that have rows; a line's style follows from its index, and is the same in all panels."""
    for i, line in enumerate(lines):
        points = curve([row for row in rows if plot.line_of(row) == line], plot.x, plot.y, plot.interval)
        if not points:
            continue
        x, y, *interval = zip(*points, strict=True)
        axes.errorbar(x, y, interval, label=line, color=f"C{i % 10}", marker=MARKERS[i % len(MARKERS)], markersize=4,
                      linewidth=1.2, linestyle="-" if i < 10 else "--", capsize=2)
    if plot.floor is not None:
        x, y, *_ = zip(*curve(rows, plot.x, plot.floor), strict=True)
        axes.plot(x, y, "k--", linewidth=1, label=plot.floor)
    named = any(isinstance(row[plot.x], str) for row in rows)
    axes.set(xlabel=plot.x, ylabel=plot.y)
    if named:
        axes.tick_params(axis="x", labelrotation=30)
    elif not plot.linear:
        axes.set_xscale("log")
    if not plot.linear:
        axes.set_yscale("log")
