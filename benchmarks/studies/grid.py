"""A study as its YAML file has it: a question, a problem, and grids of sampler x schedule x guidance x steps x seed, or
of variant x steps x seed."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import ConfigError
from common.suggestions import nearest
from configuration.targets import instantiate_from_config
from sgm.sampling import Sampler

AXES = ("samplers", "schedules", "guidances")
NO_GUIDANCE = {"none": None}


@dataclass(frozen=True)
class Cell:
    """One run: names of the study's parts, steps and seed. It is the key of one line of the results."""

    sampler: str
    schedule: str
    guidance: str
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.sampler}, {self.schedule}, guidance {self.guidance}, {self.steps} steps, seed {self.seed}"


@dataclass(frozen=True)
class VariantCell:
    """One run of a study of variants, which are whatever its problem tells apart."""

    variant: str
    steps: int
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.steps} steps, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """The keys of a study's file. Samplers, schedules and guidances are `{target, params}` by name, or there are
    `variants` in their place, each a mapping that the problem reads; each grid chooses among the names, all unless it
    says which, and has `steps` and `seeds`.
    """

    name: str
    question: str
    problem: Mapping
    grids: Sequence[Mapping]
    samplers: Mapping[str, Mapping] = field(default_factory=dict)
    schedules: Mapping[str, Mapping] = field(default_factory=dict)
    guidances: Mapping[str, Mapping | None] = field(default_factory=NO_GUIDANCE.copy)
    variants: Mapping[str, Mapping] = field(default_factory=dict)
    plots: Sequence[Mapping] = ()
    comparisons: Sequence[Mapping] = ()  # of videos, pair by pair
    slopes: bool = False  # fit log error over log steps, beside the declared orders

    @property
    def axes(self) -> tuple[str, ...]:
        return ("variants",) if self.variants else AXES

    @property
    def cell_type(self) -> type[Cell] | type[VariantCell]:
        return VariantCell if self.variants else Cell

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns of the results that name a cell."""
        return tuple(f.name for f in fields(self.cell_type))

    def cells(self) -> list[Cell] | list[VariantCell]:
        """Of all grids, each once. Raises ConfigError for a name that the study does not have."""
        found: dict[Cell | VariantCell, None] = {}
        for i, grid in enumerate(self.grids):
            where = f"study {self.name}: grids[{i}]"
            check_keys(grid, (*self.axes, "steps", "seeds"), where)
            names = [self._chosen(axis, grid.get(axis), where) for axis in self.axes]
            steps = _whole_numbers(grid.get("steps"), 1, f"{where}.steps")
            seeds = _whole_numbers(grid.get("seeds", [0]), 0, f"{where}.seeds")
            found.update(dict.fromkeys(self.cell_type(*parts) for parts in product(*names, steps, seeds)))
        return list(found)

    def part(self, cell: Cell | VariantCell) -> Sampler | Mapping:
        """What the problem is given with a cell: its sampler, or its variant."""
        return self.variants[cell.variant] if isinstance(cell, VariantCell) else self.sampler(cell)

    def sampler(self, cell: Cell) -> Sampler:
        """Raises ConfigError, naming the cell, for parts that are wrong or do not fit."""
        part = self.samplers[cell.sampler]
        params = {**(part.get("params") or {}), "discretization_config": self.schedules[cell.schedule],
                  "guider_config": self.guidances[cell.guidance], "num_steps": cell.steps}
        try:
            return instantiate_from_config({**part, "params": params})
        except ConfigError as error:
            raise ConfigError(f"study {self.name}: {cell}: {error}") from error

    def measured(self) -> dict:
        """What the results depend on; the rest is how they are shown."""
        return {key: getattr(self, key) for key in ("problem", *self.axes, "grids")}

    def _chosen(self, axis: str, names: Sequence[str] | None, where: str) -> list[str]:
        known = getattr(self, axis)
        for name in names or ():
            if name not in known:
                raise ConfigError(f"{where}.{axis}: the study has no {name}{nearest(name, known)}")
        return list(known if names is None else names)


def read_study(path: str | Path) -> Study:
    """Raises ConfigError for a file that is missing, not readable, or has unknown or missing keys."""
    path = Path(path)
    if not path.is_file():
        known = [str(other) for other in path.parent.glob("*.yaml")]
        raise ConfigError(f"study {path} does not exist{nearest(str(path), known)}")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a readable YAML file: {' '.join(str(error).split())}") from error
    known = [f.name for f in fields(Study) if f.name != "name"]
    check_keys(loaded, known, str(path))
    parts = ("variants",) if loaded.get("variants") else ("samplers", "schedules")
    for key in ("question", "problem", *parts, "grids"):
        if not loaded.get(key):
            raise ConfigError(f"{path}: {key} is missing; see configs/studies")
    for axis in AXES:
        _check_axis(loaded.get(axis, {}), f"{path}: {axis}")
    study = Study(name=path.stem, **loaded)
    for cell in study.cells():
        study.part(cell)
    return study


def _check_axis(axis, where: str) -> None:
    for name, part in axis.items() if isinstance(axis, Mapping) else [("", "")]:
        if part is not None and not (isinstance(part, Mapping) and "target" in part):
            raise ConfigError(f"{where}: {name or axis!r} must be a name with its target and params")


def check_keys(given, known: Sequence[str], where: str) -> None:
    """Raises ConfigError for what is no mapping, and for a key that is not among `known`."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: must be a mapping with the keys {', '.join(known)}")
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}{nearest(key, known)}")


def _whole_numbers(values, least: int, where: str) -> list[int]:
    if not isinstance(values, list) or not values or any(type(v) is not int or v < least for v in values):
        raise ConfigError(f"{where} is {values!r}; it must be a list of whole numbers from {least}")
    return values
