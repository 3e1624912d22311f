"""Figures of several panels with a common legend, written as PNG."""
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from common.files import whole_file

DPI = 90


def panels(titles: Sequence[str], columns: int = 3, size: tuple[float, float] = (4.2, 3.9)) -> list[Axes]:
    """Return the panels of a new figure, row by row, with a shared y axis."""
    columns = min(len(titles), columns)
    lines = math.ceil(len(titles) / columns)
    _, grid = plt.subplots(lines, columns, figsize=(1.5 + size[0] * columns, size[1] * lines), squeeze=False,
                           sharey=True)
    for axes in grid.flat[len(titles):]:
        axes.set_visible(False)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    return list(grid.flat[:len(titles)])


def save(axes: Sequence[Axes], path: Path) -> None:
    """Write the figure of these panels with one legend, and close it."""
    figure = axes[0].figure
    named = {label: handle for panel in axes
             for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named.keys(), loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.tight_layout()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
