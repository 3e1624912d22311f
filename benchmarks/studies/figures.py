"""Figures as wide as a page: their panels, the styles of lines and points, axes of measures, and writing as PNG."""
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from benchmarks.studies.measures import Measure
from common.files import whole_file

WIDTH = 8.0  # inches; shown 800 to 1000 pixels wide, its smallest text has 12 pixels
DPI = 150
STYLE = {"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
         "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.3, "lines.markersize": 4}
# Okabe and Ito 2008, told apart by colour-blind readers too, without yellow, which is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P*X"
DASHES = ("-", "--", ":")
LIMIT = 1e-12  # smaller values are rounding errors of float64, drawn as 0
# Ticks of a logarithmic axis within each power of ten, by the ratio of values below which they have room.
TICKS = {10: (1, 1.5, 2, 3, 4, 5, 6, 8), 300: (1, 2, 5), math.inf: (1,)}
MANY = 300  # from this ratio on, ticks are written as powers
CLOSEST = 0.05  # share of a logarithmic axis below which one of two ticks is left out


def style_of(index: int) -> dict[str, Any]:
    """Return the colour, marker and dashes of a line; 70 lines have different ones."""
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)],
            "linestyle": DASHES[index // len(COLORS) % len(DASHES)]}


def panels(titles: Sequence[str], columns: int = 2, height: float = 3.6, sharex: bool = True, sharey: bool = True
           ) -> list[Axes]:
    """Return the panels of a new figure, row by row, with common ranges unless told otherwise."""
    columns = min(len(titles), columns)
    lines = math.ceil(len(titles) / columns)
    _, grid = plt.subplots(lines, columns, figsize=(WIDTH, height * lines), squeeze=False, sharex=sharex,
                           sharey=sharey, layout="constrained")
    for axes in grid.flat[len(titles):]:
        axes.set_visible(False)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelbottom=True)
    return list(grid.flat[:len(titles)])


def save(axes: Sequence[Axes], path: Path) -> None:
    """Write the figure of these panels, and close it. A name that all share stands at the leftmost panel alone."""
    figure = axes[0].figure
    for panel in axes:
        if panel.get_ylabel() == axes[0].get_ylabel() and not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    plt.close(figure)


def scale_axis(axes: Axes, which: str, measure: Measure, values: Sequence[float], linear: bool = False) -> None:
    """Scale the axis `which` ("x" or "y") for all `values` of a measure, and name it with unit and better direction."""
    separator = " " if which == "y" else "\n"  # panels are narrower than high
    notes = measure.notes and f"{separator}({measure.notes})"
    axes.set(**{f"{which}label": measure.spoken + notes})
    if measure.cost:
        axes.set(**{f"{which}scale": "log"})
        _set_ticks(getattr(axes, f"{which}axis"), FixedLocator(apart(sorted(set(values)))))
    elif measure.log and not linear and max(values) > LIMIT:
        _logarithmic(axes, which, values)


def _logarithmic(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic; below the smallest value above 0 it is linear, if there is a 0 to show."""
    scale, axis = getattr(axes, f"set_{which}scale"), getattr(axes, f"{which}axis")
    least, highest = min(value for value in values if value > LIMIT), max(values)
    ticks = LogLocator(subs=next(subs for ratio, subs in TICKS.items() if highest / least < ratio))
    if min(values) > LIMIT:
        scale("log")
        if highest / least < MANY:
            _set_ticks(axis, ticks)
    else:
        scale("symlog", linthresh=least, linscale=0.3)
        _set_ticks(axis, FixedLocator([0, *(t for t in ticks.tick_values(least, highest) if least <= t <= highest)]))


def _set_ticks(axis: Axis, locator: Locator) -> None:
    """Set ticks with plain numbers, and none between them."""
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def apart(values: Sequence[float]) -> list[float]:
    """Return sorted values above 0 without those that would stand too close on a logarithmic axis."""
    kept = list(values[:1])
    for value in values[1:]:
        if math.log(value / kept[-1]) > CLOSEST * math.log(values[-1] / values[0]):
            kept.append(value)
    return kept
