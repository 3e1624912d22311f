"""The plot of losses over training steps, for problems that record them."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.curves import value_name
from benchmarks.studies.figures import panels, save, scale_axis, style_of
from benchmarks.studies.grid import Study, VariantCell
from benchmarks.studies.labels import label_ends
from benchmarks.studies.measures import measure_of
from benchmarks.studies.results import Row
from common.errors import ConfigError


@dataclass(frozen=True)
class Losses:
    """A plot of losses over training steps: a panel for each seed, with a line for each of `variants` (default: all).

    What is drawn is also written beside the picture as CSV: variant, seed, step, loss.
    """

    name: str
    title: str = ""
    variants: Sequence[str] | None = None

    def check(self, study: Study, measures: Sequence[str], where: str) -> None:
        """Raise ConfigError for a variant that the study does not have, or a study without variants."""
        for variant in self.variants or ():
            if variant not in study.variants:
                raise ConfigError(f"{where}.variants: the study has no {variant}; it has {', '.join(study.variants)}")
        if not study.variants:
            raise ConfigError(f"{where}: a plot of losses needs variants, and the study has none")

    def rows(self, problem, cells: Sequence[VariantCell]) -> list[Row]:
        """Return a row for each step of the cells of these variants; `problem.losses(cell)` has steps and losses."""
        return [{"variant": cell.variant, "seed": cell.seed, "step": step, "loss": loss}
                for cell in cells if self.variants is None or cell.variant in self.variants
                for step, loss in zip(*problem.losses(cell), strict=True)]

    def draw(self, rows: Sequence[Row], path: Path) -> None:
        """Write the picture of `rows`."""
        seeds, names = ({row[key]: None for row in rows} for key in ("seed", "variant"))
        grid = panels([value_name("seed", seed) for seed in seeds])
        for axes, seed in zip(grid, seeds, strict=True):
            for i, variant in enumerate(names):
                chosen = [row for row in rows if (row["seed"], row["variant"]) == (seed, variant)]
                axes.plot([row["step"] for row in chosen], [row["loss"] for row in chosen], label=variant,
                          **{**style_of(i), "markersize": 2})
            axes.set(xlabel="step")
            scale_axis(axes, "y", measure_of("loss"), [float(row["loss"]) for row in rows])
        for axes in grid:
            label_ends(axes)
        save(grid, path)
