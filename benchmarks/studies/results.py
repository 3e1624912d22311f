"""The results table of a study: a line for each finished cell, never half a line, and never of another study."""
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import yaml
from errors import ConfigError, DataError
from files import whole_file

from benchmarks.studies.grid import Cell, Study

KEYS = tuple(f.name for f in fields(Cell))
Row = dict[str, str | int | float]


class Results:
    """`results.csv` in a folder, beside the `study.yaml` it belongs to.

    Raises ConfigError if the folder belongs to a study that was different, DataError for a damaged table.
    """

    def __init__(self, folder: Path, study: Study, measures: Sequence[str]):
        self.path, self.measures = folder / "results.csv", tuple(measures)
        self._order = {cell: i for i, cell in enumerate(study.cells())}
        self._keep(folder / "study.yaml", study.measured())
        self.rows: dict[Cell, Row] = {}
        if self.path.is_file():
            self.rows = {cell_of(row): row for row in read_rows(self.path)}

    def add(self, cell: Cell, measured: Mapping[str, float]) -> None:
        """Writes the whole table under a temporary name, then renames it."""
        self.rows[cell] = {**asdict(cell), **measured}
        with whole_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, (*KEYS, *self.measures), lineterminator="\n")
            table.writeheader()
            for row in sorted(self.rows.items(), key=lambda item: self._order[item[0]]):
                table.writerow({key: short(value) for key, value in row[1].items()})

    def _keep(self, path: Path, measured: Mapping) -> None:
        if path.is_file():
            change = first_change(yaml.safe_load(path.read_text(encoding="utf-8")), measured)
            if change is not None:
                raise ConfigError(f"{path.parent} holds results of another study: {change}; name another folder with "
                                  "--out, or remove it")
            return
        with whole_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(measured, sort_keys=False), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Numbers as numbers. Raises DataError for a table with other columns or values."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is not a table of results ({error}): remove it") from error


def cell_of(row: Mapping) -> Cell:
    return Cell(**{key: row[key] for key in KEYS})


def first_change(old, new, where: str = "") -> str | None:
    """The first dotted place where two trees differ, as `place was A, is B`; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            change = first_change(old.get(key, "missing"), new.get(key, "missing"), f"{where}.{key}".lstrip("."))
            if change is not None:
                return change
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        changes = (first_change(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
        return next((change for change in changes if change is not None), None)
    return None if old == new else f"{where} was {old}, is {new}"


def short(value):
    return f"{value:.6g}" if isinstance(value, float) else value


def _value(key: str, text: str):
    if key in ("sampler", "schedule", "guidance"):
        return text
    return int(text) if key in KEYS or text.isdigit() else float(text)
