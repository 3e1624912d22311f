"""The plot of losses over training steps, for problems that record them."""
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.studies.figures import panels, save
from benchmarks.studies.grid import Study, VariantCell
from common.errors import ConfigError


@dataclass(frozen=True)
class Losses:
    """A plot with a line for each of `variants` (default: all), the mean over seeds, and the range shaded."""

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

    def draw(self, problem, cells: Sequence[VariantCell], path: Path) -> bool:
        """Draw `problem.losses(cell)`, a pair (steps, losses), of each cell. Returns False if there are none."""
        found = defaultdict(list)
        for cell in cells:
            if self.variants is None or cell.variant in self.variants:
                found[cell.variant].append(problem.losses(cell))
        if not found:
            return False
        (axes,) = panels([self.title], size=(6.5, 4.2))
        for variant, runs in found.items():
            steps, losses = runs[0][0], np.array([losses for _, losses in runs])
            axes.plot(steps, losses.mean(0), label=variant, linewidth=1.2)
            axes.fill_between(steps, losses.min(0), losses.max(0), alpha=0.2)
        axes.set(xlabel="step", ylabel="loss")
        save([axes], path)
        return True
