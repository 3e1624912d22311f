"""The results table of a study: a line for each finished cell, never half a line, and never of another study."""
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from benchmarks.studies.grid import Cell, Study, VariantCell
from common.errors import ConfigError, DataError
from common.files import whole_file

NAMES = ("sampler", "schedule", "guidance", "variant")  # columns of text
Row = dict[str, str | int | float]


class Results:
    """`results.csv` in a folder, beside the `study.yaml` it belongs to.

    Raises ConfigError if the folder belongs to a study that was different, DataError for a damaged table.
    """

    def __init__(self, folder: Path, study: Study, measures: Sequence[str]):
        self.path, self.measures, self._keys = folder / "results.csv", tuple(measures), study.keys
        self._order = {cell: i for i, cell in enumerate(study.cells())}
        self._keep(folder / "study.yaml", study.measured())
        self.rows: dict[Cell | VariantCell, Row] = {}
        if self.path.is_file():
            self.rows = {study.cell_type(**{key: row[key] for key in self._keys}): row for row in self._read()}

    def add(self, cell: Cell | VariantCell, measured: Mapping[str, float]) -> None:
        """Writes the whole table under a temporary name, then renames it."""
        self.rows[cell] = {**asdict(cell), **measured}
        with whole_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, (*self._keys, *self.measures), lineterminator="\n")
            table.writeheader()
            for row in sorted(self.rows.items(), key=lambda item: self._order[item[0]]):
                table.writerow({key: short(value) for key, value in row[1].items()})

    def _read(self) -> list[Row]:
        """Numbers as numbers. Raises DataError for a table with other columns or values."""
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = [{key: self._value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]
            return [{key: row[key] for key in (*self._keys, *self.measures)} for row in rows]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self.path} is not a table of results ({error}): remove it") from error

    def _value(self, key: str, text: str) -> str | int | float:
        if key in NAMES:
            return text
        return int(text) if key in self._keys or text.isdigit() else float(text)

    def _keep(self, path: Path, measured: Mapping) -> None:
        if path.is_file():
            change = first_change(yaml.safe_load(path.read_text(encoding="utf-8")), measured)
            if change is not None:
                raise ConfigError(f"{path.parent} holds results of another study: {change}; name another folder with "
                                  "--out, or remove it")
            return
        with whole_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(measured, sort_keys=False), encoding="utf-8")


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
