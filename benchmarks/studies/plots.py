"""The plots of a study, read from its file and drawn: curves of results, losses, and plots of its parts."""
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path

import matplotlib

from benchmarks.studies.curves import Plot, chosen_rows
from benchmarks.studies.drawing import Drawn, draw_curves
from benchmarks.studies.figures import STYLE
from benchmarks.studies.grid import Cell, Study, VariantCell, check_keys, check_named
from benchmarks.studies.losses import Losses
from benchmarks.studies.pictures import Scales, Trajectories
from benchmarks.studies.results import Row
from common.errors import ConfigError
from common.suggestions import nearest
from common.typed import typed

KINDS = {"curves": Plot, "losses": Losses, "scales": Scales, "trajectories": Trajectories}
Kind = Plot | Losses | Scales | Trajectories


def plots_of(study: Study, measures: Sequence[str]) -> list[Kind]:
    """Return the study's plots. Raises ConfigError for an unknown kind, key, column or name, or a missing key."""
    plots = []
    check_named(study.plots, f"study {study.name}: plots")
    for i, given in enumerate(study.plots):
        where = f"study {study.name}: plots[{i}]"
        name = given.get("kind", "curves")
        if not isinstance(name, str) or name not in KINDS:
            raise ConfigError(f"{where}.kind {name} is none of {', '.join(KINDS)}{nearest(name, KINDS)}")
        kind = KINDS[name]
        keys = kind.__dataclass_fields__
        check_keys(given, ["kind", *keys], where)
        for key, known in keys.items():
            if key not in given and known.default is MISSING:
                raise ConfigError(f"{where}.{key} is missing")
        plots.append(kind(**typed(kind, {key: value for key, value in given.items() if key != "kind"}, where)))
        plots[-1].check(study, measures, where)
    return plots


def draw(plot: Kind, study: Study, rows: Mapping[Cell | VariantCell, Row], losses: Sequence[Row], path: Path) -> Drawn:
    """Write a plot as PNG, unless there is no result for it yet, or all of it is better shown as tables.

    A plot of losses is drawn from `losses` (`Losses.rows`).
    """
    with matplotlib.rc_context(STYLE):
        if isinstance(plot, Plot):
            return draw_curves(plot, chosen_rows(list(rows.values()), plot), path)
        if isinstance(plot, Losses):
            if not losses:
                return Drawn(None)
            plot.draw(losses, path)
        else:
            plot.draw(study, path)
        return Drawn(path)
