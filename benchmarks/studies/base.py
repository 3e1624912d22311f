"""The base class of the problems that studies solve; a class outside this project may be one too."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.studies.grid import Cell, VariantCell


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A problem that measures one value for each of `measures` in a cell.

    A subclass is a frozen dataclass; its fields are the keys that `problem` may have in a study's file. `folder` is
    where solved cells are kept, by default `cells` in the folder of the study; studies may share it.
    """

    cell_type: ClassVar[type[Cell] | type[VariantCell]] = Cell
    measures: ClassVar[tuple[str, ...]]
    folder: str | None = None
    places: dict[Cell | VariantCell, Path] = field(default_factory=dict, init=False, repr=False, compare=False)
    configs: dict[Cell | VariantCell, Mapping] = field(default_factory=dict, init=False, repr=False, compare=False)

    def solve(self, part: Any, cell: Any) -> dict[str, float]:
        """Return the measures of a cell; `part` is its sampler if `cell_type` is Cell, and its variant otherwise."""
        raise NotImplementedError

    def check(self, variant: Mapping, where: str) -> None:
        """Raise ConfigError for an invalid variant."""

    def needs(self, part: Mapping) -> Mapping:
        """Return the configuration that results depend on beside the study's own, such as a model's.

        `part` is what the study says of a cell: `{sampler, schedule, guidance}` or `{variant}`.
        Classes that the result names by `target` count by their source, and files by their content.
        """
        return {}

    def config(self, cell: Cell | VariantCell) -> Mapping:
        """Return what the study says of a cell: `{sampler, schedule, guidance}` or `{variant}`."""
        return self.configs[cell]

    def place(self, cell: Cell | VariantCell) -> Path:
        """Return the folder of what belongs to a cell."""
        return self.places[cell]
