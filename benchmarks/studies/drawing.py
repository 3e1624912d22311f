"""Curves of results drawn in panels; those with too few points to draw become tables."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.studies.curves import Plot, value_name
from benchmarks.studies.figures import panels, save, scale_axis, style_of
from benchmarks.studies.labels import HIDDEN, label_dots, label_ends
from benchmarks.studies.measures import measure_of
from benchmarks.studies.results import Row

FEW = 2  # places on the x axis up to which a panel is a table
ROW, AROUND = 0.3, 1.0  # inches that a row of names takes, and those around the rows
APART = 0.025  # by how much points with intervals are moved apart where lines have the same x, in powers of two


@dataclass(frozen=True)
class Drawn:
    """What became of a plot: the picture's path, if there is one, and its tables by name."""

    path: Path | None
    tables: Mapping[str, list[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """The rows of one panel, and the column that it shows."""

    title: str
    y: str
    rows: Sequence[Row]

    def values(self, plot: Plot) -> list[float]:
        """Return all values that the panel's y axis has to show."""
        shown = [self.y, *filter(None, [plot.floor])]
        return [point[1] for name in shown for line in by_line(plot, self.rows).values()
                for point in plot.points(line, name)]


def panels_of(plot: Plot, rows: Sequence[Row]) -> list[Panel]:
    """Return the panels of a plot: one for each value of its column `panels`, or for each y."""
    if plot.panels:
        values = dict.fromkeys(row[plot.panels] for row in rows)
        return [Panel(panel_name(plot.panels, value), plot.ys[0], [row for row in rows if row[plot.panels] == value])
                for value in values]
    return [Panel("", y, rows) for y in plot.ys]


def panel_name(column: str, value: str | int | float) -> str:
    """Return the title of the panel of a column's value."""
    return f"{column} {value}" if isinstance(value, str) else value_name(column, value)


def by_line(plot: Plot, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each line, in the order in which lines occur."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(plot.line_of(row), []).append(row)
    return found


def draw_curves(plot: Plot, rows: Sequence[Row], path: Path) -> Drawn:
    """Write the panels of a plot as PNG; those with only FEW places on their x axis are returned as tables."""
    large, small = [], {}
    for panel in panels_of(plot, rows):
        if len({row[plot.x] for row in panel.rows}) > FEW:
            large.append(panel)
        elif panel.rows:
            small[panel.title or measure_of(panel.y).spoken] = table_of(plot, panel)
    if not large:
        path.unlink(missing_ok=True)  # of an earlier run
        return Drawn(None, small)
    styles = {line: style_of(i) for i, line in enumerate(by_line(plot, rows))}
    draw = _names if any(isinstance(row[plot.x], str) for row in rows) else _lines
    save(draw(plot, large, styles), path)
    return Drawn(path, small)


def _lines(plot: Plot, shown: Sequence[Panel], styles: Mapping[str, Mapping]) -> list[Axes]:
    """Draw lines over a column of numbers, with their labels at their ends."""
    grid = panels([panel.title for panel in shown], sharey=len(plot.ys) == 1)
    for axes, panel in zip(grid, shown, strict=True):
        for i, (line, rows) in enumerate(by_line(plot, panel.rows).items()):
            x, y, *interval = zip(*plot.points(rows, panel.y), strict=True)
            if measure_of(plot.x).cost and np.any(interval):
                x = np.array(x) * 2 ** (APART * (i - (len(styles) - 1) / 2))
            axes.plot(x, y, label=line, **styles[line])
            _interval(axes, x, y, interval, styles[line], "yerr")
        if plot.floor is not None:
            x, y, *_ = zip(*plot.points(panel.rows, plot.floor), strict=True)
            axes.plot(x, y, "k--", linewidth=0.9, label=plot.floor)
    _scale(plot, shown, grid, "x", "y")
    for axes in grid:
        label_ends(axes)
    return grid


def _names(plot: Plot, shown: Sequence[Panel], styles: Mapping[str, Mapping]) -> list[Axes]:
    """Draw dots in a row for each name, with the labels of lines above their dots."""
    names = list(dict.fromkeys(str(row[plot.x]) for panel in shown for row in panel.rows))
    grid = panels([panel.title for panel in shown], columns=3, height=AROUND + ROW * len(names),
                  sharex=len(plot.ys) == 1)
    for axes, panel in zip(grid, shown, strict=True):
        lines = by_line(plot, panel.rows)
        for i, (line, rows) in enumerate(lines.items()):
            points = plot.points(rows, panel.y)
            x, *interval = zip(*(point[1:] for point in points), strict=True)
            places = [names.index(point[0]) + 0.22 * (i - (len(lines) - 1) / 2) for point in points]
            axes.plot(x, places, label=line, **{**styles[line], "linestyle": "none"})
            _interval(axes, x, places, interval, styles[line], "xerr")
        if plot.floor is not None:
            level = np.mean([row[plot.floor] for row in panel.rows])
            axes.axvline(level, color="k", linestyle="--", linewidth=0.9, label=HIDDEN)
            axes.annotate(plot.floor, (level, 1), xycoords=("data", "axes fraction"), fontsize=8, ha="center",
                          va="bottom")
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.9))
    _scale(plot, shown, grid, None, "x")
    for axes in grid:
        label_dots(axes)
    return grid


def _interval(axes: Axes, x, y, interval: Sequence, style: Mapping, direction: str) -> None:
    """Draw intervals (distances down, distances up) around points, if any has one."""
    if np.any(interval):
        axes.errorbar(x, y, **{direction: np.maximum(interval, 0)}, fmt="none", ecolor=style["color"], elinewidth=0.8,
                      capsize=1.5, alpha=0.6)


def _scale(plot: Plot, shown: Sequence[Panel], grid: Sequence[Axes], across: str | None, along: str) -> None:
    """Scale the axes of all panels: `across` shows plot.x, unless it has names, and `along` the panel's y."""
    every = [value for panel in shown for value in panel.values(plot)]
    for axes, panel in zip(grid, shown, strict=True):
        if across:
            scale_axis(axes, across, measure_of(plot.x), [float(row[plot.x]) for one in shown for row in one.rows])
        values = every if len(plot.ys) == 1 else panel.values(plot)
        scale_axis(axes, along, measure_of(panel.y), values, plot.linear)


def table_of(plot: Plot, panel: Panel) -> list[Row]:
    """Return a panel as a table: a row for each line, a column for each place of x, with intervals."""
    places = dict.fromkeys(row[plot.x] for row in panel.rows)
    if not any(isinstance(place, str) for place in places):
        places = dict.fromkeys(sorted(places))
    table: list[Row] = []
    for line, rows in by_line(plot, panel.rows).items():
        points = {point[0]: _with_interval(*point[1:]) for point in plot.points(rows, panel.y)}
        table.append({", ".join(plot.line_columns): line,
                      **{f"{panel.y}, {value_name(plot.x, place)}": points.get(place, "-") for place in places}})
    return table


def _with_interval(value: float, down: float, up: float) -> str:
    """Return a value as text, with its interval if it has one."""
    return f"{value:.3g} ({value - down:.3g} to {value + up:.3g})" if down or up else f"{value:.3g}"
