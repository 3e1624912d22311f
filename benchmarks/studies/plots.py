"""Draws the plots of a study."""
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from files import whole_file  # noqa: E402

from benchmarks.studies.curves import Plot, chosen_rows, curve  # noqa: E402
from benchmarks.studies.results import Row  # noqa: E402

MARKERS = "osD^v<>Px*"
DPI = 90


def draw(plot: Plot, rows: Sequence[Row], path: Path) -> bool:
    """Writes a PNG; False where no result is for this plot yet."""
    rows = chosen_rows(rows, plot)
    if not rows:
        return False
    panels = list(dict.fromkeys(row[plot.panels] for row in rows)) if plot.panels else [None]
    columns = min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(lines, columns, figsize=(1.5 + 4.2 * columns, 3.9 * lines), squeeze=False, sharey=True)
    for axes in grid.flat[len(panels):]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        draw_panel(axes, plot, [row for row in rows if panel is None or row[plot.panels] == panel])
        axes.set_title(plot.title if panel is None else str(panel), fontsize=10)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    return True


def draw_panel(axes, plot: Plot, rows: Sequence[Row]) -> None:
    for i, line in enumerate(dict.fromkeys(row[plot.lines] for row in rows)):
        points = curve([row for row in rows if row[plot.lines] == line], plot.x, plot.y)
        x, y, interval = zip(*points, strict=True)
        axes.errorbar(x, y, interval, label=str(line), marker=MARKERS[i % len(MARKERS)], markersize=4, linewidth=1.2,
                      linestyle="-" if i < 10 else "--", capsize=2)
    if plot.floor is not None:
        x, y, _ = zip(*curve(rows, plot.x, plot.floor), strict=True)
        axes.plot(x, y, "k--", linewidth=1, label=plot.floor)
    named = any(isinstance(row[plot.x], str) for row in rows)
    axes.set(xlabel=plot.x, ylabel=plot.y)
    if named:
        axes.tick_params(axis="x", labelrotation=30)
    elif not plot.linear:
        axes.set_xscale("log")
    if not plot.linear:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
