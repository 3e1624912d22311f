"""A study as read from its YAML file: a question, a problem, and grids of cells.

The axes of a grid are sampler, schedule, guidance, steps and seed, or variant, steps and seed.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from benchmarks.studies.cost import build_sampler, steps_within
from benchmarks.studies.outside import faults_outside
from common.errors import ConfigError
from common.kinds import Count, Part, Steps, Text
from common.suggestions import nearest
from common.typed import checked, shown, typed
from configuration.references import check_references
from configuration.targets import check_config
from configuration.yaml_files import read_mapping, resolved
from sgm.sampling import Sampler

AXES = ("samplers", "schedules", "guidances")
MOST_CELLS = 1_000_000
NONE = "none"
NO_GUIDANCE = {NONE: None}
SLOTS = {"samplers": "sampler_config", "schedules": "discretization_config", "guidances": "guider_config"}
BY_THE_GRID = ("num_steps", "discretization_config", "discretization", "guider_config", "guider")


@dataclass(frozen=True)
class Cell:
    """One run of a study: names of its parts, steps and seed. It is the key of a line of the results."""

    sampler: str
    schedule: str
    guidance: str
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.schedule}, guidance {self.guidance}, {self.steps} steps, seed {self.seed}"


@dataclass(frozen=True)
class VariantCell:
    """One run of a study of variants, whose meaning its problem defines."""

    variant: str
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.steps} steps, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """The contents of a study's file.

    Samplers, schedules and guidances map names to `{target, params}`. Instead of them a study may have `variants`,
    which map names to mappings that the problem reads. Each grid has `seeds`, and `steps` or `passes`, and lists names
    on each axis; an axis that it does not list has all names. `passes` are numbers of network evaluations per video,
    and each cell has as many steps as fit: see `steps_within`.
    """

    name: str
    question: Text
    problem: Mapping
    grids: Annotated[Sequence[Mapping], MinLen(1)]
    samplers: Mapping[str, Part] = field(default_factory=dict)
    schedules: Mapping[str, Part] = field(default_factory=dict)
    guidances: Mapping[str, Part | None] = field(default_factory=NO_GUIDANCE.copy)
    variants: Mapping[str, Mapping] = field(default_factory=dict)
    plots: Sequence[Mapping] = ()
    comparisons: Sequence[Mapping] = ()  # paired, of videos
    slopes: bool = False  # fit log error over log steps, beside the declared orders

    @property
    def axes(self) -> tuple[str, ...]:
        """The keys that hold the named parts of a cell."""
        return ("variants",) if self.variants else AXES

    @property
    def cell_type(self) -> type[Cell] | type[VariantCell]:
        """The class of this study's cells."""
        return VariantCell if self.variants else Cell

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the results that identify a cell."""
        return tuple(f.name for f in fields(self.cell_type))

    def cells(self) -> list[Cell] | list[VariantCell]:
        """Return the cells of all grids, each once. Raises ConfigError for a name that the study does not have."""
        return list(dict.fromkeys(cell for i in range(len(self.grids)) for _, cell in self._cells_of(i)))

    def budgets(self) -> dict[Cell, set[int]]:
        """Return the passes that a grid asks for, by cell; empty where the grids have steps."""
        found: dict[Cell, set[int]] = {}
        for i, grid in enumerate(self.grids):
            for passes, cell in self._cells_of(i) if "passes" in grid else ():
                found.setdefault(cell, set()).add(passes)
        return found

    def _cells_of(self, i: int) -> list[tuple[int, Cell | VariantCell]]:
        """Return the cells of a grid, each with its number of passes or steps."""
        grid, where = self.grids[i], f"study {self.name}: grids[{i}]"
        check_keys(grid, (*self.axes, "steps", "passes", "seeds"), where)
        if "passes" in grid and ("steps" in grid or self.variants):
            raise ConfigError(f"{where}.passes: a grid has steps or passes, and one of variants has steps")
        key = "passes" if "passes" in grid else "steps"
        names = [self._chosen(axis, grid.get(axis), where) for axis in self.axes]
        costs = checked(Annotated[list[Steps], MinLen(1)], grid.get(key), f"{where}.{key}")
        seeds = checked(Annotated[list[Count], MinLen(1)], grid.get("seeds", [0]), f"{where}.seeds")
        if math.prod(map(len, (*names, costs, seeds))) > MOST_CELLS:
            raise ConfigError(f"{where} has more than {MOST_CELLS} cells; give fewer names, {key} or seeds")
        return [(cost, self.cell_type(*parts, self._steps(parts, cost) if key == "passes" else cost, seed))
                for *parts, cost, seed in product(*names, costs, seeds)]

    def _steps(self, parts: Sequence[str], passes: int) -> int:
        """Return the steps of a sampler, schedule and guidance that take this many passes at most."""
        try:
            with faults_outside("its cost"):
                return steps_within(passes, self.config(Cell(*parts, passes, 0)))
        except ConfigError as error:
            raise ConfigError(f"study {self.name}: {', '.join(parts)}, {passes} passes: {error}") from error

    def config(self, cell: Cell | VariantCell) -> Mapping:
        """Return the configuration of a cell's parts."""
        if isinstance(cell, VariantCell):
            return {"variant": self.variants[cell.variant]}
        return {"sampler": self.samplers[cell.sampler], "schedule": self.schedules[cell.schedule],
                "guidance": self.guidances[cell.guidance]}

    def part(self, cell: Cell | VariantCell) -> Sampler | Mapping:
        """Return what the problem gets beside the cell: its sampler, or its variant."""
        return self.variants[cell.variant] if isinstance(cell, VariantCell) else self.sampler(cell)

    def sampler(self, cell: Cell) -> Sampler:
        """Build the cell's sampler. Raises ConfigError, naming the cell, if its parts are invalid or do not fit."""
        try:
            with faults_outside("its sampler"):
                return build_sampler(self.config(cell), cell.steps)
        except ConfigError as error:
            raise ConfigError(f"study {self.name}: {cell}: {error}") from error

    def measured(self) -> dict:
        """Return the keys that the results depend on; the others only affect how results are shown."""
        return {key: getattr(self, key) for key in ("problem", *self.axes, "grids")}

    def _chosen(self, axis: str, names: Sequence[str] | None, where: str) -> list[str]:
        """Return a grid's names on an axis, all if it lists none. Raises ConfigError for an unknown name."""
        known = getattr(self, axis)
        for name in checked(Annotated[list[str], MinLen(1)] | None, names, f"{where}.{axis}") or ():
            if name not in known:
                raise ConfigError(f"{where}.{axis}: the study has no {name}{nearest(name, known)}")
        return list(known if names is None else names)


def read_study(path: str | Path) -> Study:
    """Read a study. Raises ConfigError if the file is missing, unreadable, or has unknown, missing or invalid keys."""
    path = Path(path)
    if not path.is_file():
        known = [str(other) for other in path.parent.glob("*.yaml")]
        raise ConfigError(f"study {path} does not exist{nearest(str(path), known)}")
    config = read_mapping(path)
    check_references(config)
    loaded = resolved(config)
    known = [f.name for f in fields(Study) if f.name != "name"]
    check_keys(loaded, known, str(path))
    parts = ("variants",) if loaded.get("variants") else ("samplers", "schedules")
    for key in ("question", "problem", *parts, "grids"):
        if not loaded.get(key):
            raise ConfigError(f"{path}: {key} is missing; see the examples in configs/studies")
    for axis in AXES:
        _check_axis(axis, loaded.get(axis) or {}, f"{path}: {axis}")
    for name in loaded.get("variants") or {}:
        check_printable(name, f"{path}: variants")
    study = Study(name=path.stem, **typed(Study, loaded, str(path)))
    for cell in study.cells():
        study.part(cell)
    return study


def _check_axis(axis: str, parts: Any, where: str) -> None:
    """Raise ConfigError unless an axis maps names to `{target, params}` of the right classes; a guidance may be null.
    """
    if not isinstance(parts, Mapping):
        raise ConfigError(f"{where} is {shown(parts)}; it must be a mapping of names to target and params")
    for name, part in parts.items():
        check_printable(name, where)
        if part is None and axis == "guidances":
            continue
        if name == NONE and axis == "guidances":
            raise ConfigError(f"{where}.{NONE} is the name of no guidance: give this one another name, or write null")
        if not isinstance(part, Mapping):
            raise ConfigError(f"{where}.{name} is {shown(part)}; it must be a mapping of target and params")
        given = part.get("params") or {}
        for key in BY_THE_GRID if axis == "samplers" and isinstance(given, Mapping) else ():
            if key in given:
                raise ConfigError(f"{where}.{name}.params.{key}: schedules, guidances and grids say this of a cell; "
                                  "leave it out")
        check_config(part, f"{where}.{name}.{SLOTS[axis]}")


def check_printable(name: Any, where: str) -> None:
    """Raise ConfigError unless a name can stand in tables, pictures and names of files."""
    if not isinstance(name, str) or not name.strip() or name != name.strip() or not name.isprintable():
        raise ConfigError(f"{where}: {shown(name)} is no name; it must be text that can be printed, of which no spaces "
                          "are at the ends" + (f": write '{name}'" if isinstance(name, int | float) else ""))


def check_named(entries: Sequence[Any], where: str) -> None:
    """Raise ConfigError unless the entries of a list have names of their own, which can be parts of file names."""
    names = [entry.get("name") for entry in entries]
    for i, name in enumerate(names):
        if name is None:
            raise ConfigError(f"{where}[{i}].name is missing")
        check_printable(name, f"{where}[{i}].name")
        if "/" in name:
            raise ConfigError(f"{where}[{i}].name is {shown(name)}; it must be without a slash")
        if name in names[:i]:
            raise ConfigError(f"{where}[{i}].name is {shown(name)}, as that of {where}[{names.index(name)}]; one would "
                              "replace the other")


def check_values(chosen: Mapping[str, Sequence], cells: Sequence, where: str) -> None:
    """Raise ConfigError for a value that no cell has on its axis; other columns than axes are not checked."""
    for axis, values in chosen.items():
        known = {getattr(cell, axis, None) for cell in cells}
        for value in values if known != {None} else ():
            if value not in known:
                raise ConfigError(f"{where}.{axis}: no cell has {shown(value)}{nearest(value, map(str, known))}")


def check_keys(given, known: Sequence[str], where: str) -> None:
    """Raise ConfigError unless `given` is a mapping with keys from `known` only."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a mapping with keys from {', '.join(known)}")
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}{nearest(key, known)}")

