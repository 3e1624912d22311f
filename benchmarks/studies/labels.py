"""Labels of lines, written at their ends instead of in a legend."""
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

BESIDE = 1.04  # where labels begin, in widths of the panel
LINE_HEIGHT = 1.3  # in font sizes
WIDE = 0.25  # distance of dots, in widths of the panel, from which labels above them do not touch
HIDDEN = "_"  # begins the label of a line that gets none, as in matplotlib's legends


def label_ends(axes: Axes) -> None:
    """Write each line's label beside the panel, near the line's last point and joined with it."""
    lines = labelled(axes)
    if not lines:
        return
    axes.figure.draw_without_rendering()  # fixes ranges and heights
    ends = np.array([[line.get_xdata(orig=False)[-1], line.get_ydata(orig=False)[-1]] for line in lines])
    heights = (axes.transData + axes.transAxes.inverted()).transform(ends)[:, 1]
    size = 72 * axes.get_window_extent().height / axes.figure.dpi  # points
    font = axes.xaxis.label.get_fontsize() * 0.95
    for line, end, place in zip(lines, ends, spread(heights, LINE_HEIGHT * font / size), strict=True):
        color = line.get_color()
        axes.annotate("", end, (BESIDE, place), textcoords=axes.transAxes, annotation_clip=False, arrowprops={
            "arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": 3})
        axes.plot([BESIDE], [place], transform=axes.transAxes, clip_on=False, color=color, marker=line.get_marker(),
                  label=HIDDEN)
        axes.annotate(str(line.get_label()), (BESIDE, place), (5, 0), xycoords="axes fraction",
                      textcoords="offset points", va="center", fontsize=font, annotation_clip=False)


def label_dots(axes: Axes) -> None:
    """Write each line's label above one of its points: in the row where the points of all lines are farthest apart."""
    lines = labelled(axes)
    if not lines:
        return
    axes.figure.draw_without_rendering()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform(line.get_xydata()) for line in lines]
    rows = min(map(len, places))
    gaps = [np.diff(sorted(place[row][0] for place in places)).min(initial=1) for row in range(rows)]
    row = int(np.argmax(gaps))
    top, across = min(line.get_xydata()[row][1] for line in lines), [place[row][0] for place in places]
    for i, line in enumerate(lines):
        x = line.get_xydata()[row][0]
        aside = "center" if gaps[row] > WIDE else "right" if across[i] == min(across) else "left"
        axes.annotate(str(line.get_label()), (x, top), (0, 4), textcoords="offset points", ha=aside, va="bottom",
                      fontsize=axes.xaxis.label.get_fontsize() * 0.95, color=line.get_color(), annotation_clip=False)


def labelled(axes: Axes) -> list[Line2D]:
    """Return the lines that have a label of their own."""
    return [line for line in axes.get_lines() if not str(line.get_label()).startswith(HIDDEN)]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return the places in 0..1 moved as little as needed to be `gap` apart, in the same order."""
    order = np.argsort(places, kind="stable")
    blocks: list[tuple[float, int]] = []  # centre and number of places that touch each other
    for place in np.asarray(places, dtype=float)[order]:
        centre, count = place, 1
        while True:
            room = gap * (count - 1) / 2
            centre = max(min(centre, 1 - room), room)
            if not blocks or centre - room - gap >= blocks[-1][0] + gap * (blocks[-1][1] - 1) / 2 - 1e-9:
                break
            below, members = blocks.pop()
            centre, count = (centre * count + below * members) / (count + members), count + members
        blocks.append((centre, count))
    moved = [centre + gap * (i - (count - 1) / 2) for centre, count in blocks for i in range(count)]
    result = np.empty(len(moved))
    result[order] = moved
    return [float(place) for place in result]
