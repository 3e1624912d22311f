"""The table of a study's results, a line for each solved cell. It is replaced as a whole, and belongs to one study."""
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from benchmarks.studies.grid import Cell, Study, VariantCell
from common.errors import ConfigError, DataError
from common.files import whole_file
from common.text import read_text

NAMES = ("sampler", "schedule", "guidance", "variant")  # columns that hold text
Row = dict[str, str | int | float]


class Results:
    """The rows of `results.csv` in a folder, beside the `study.yaml` that they belong to.

    Raises ConfigError if the folder holds results of a different study, DataError if the table is damaged.
    """

    def __init__(self, folder: Path, study: Study, measures: Sequence[str]):
        self.path, self.measures, self._keys = folder / "results.csv", tuple(measures), study.keys
        self._order = {cell: i for i, cell in enumerate(study.cells())}
        self._keep(folder / "study.yaml", study.measured())
        self.rows: dict[Cell | VariantCell, Row] = {}
        if self.path.is_file():
            self.rows = {study.cell_type(**{key: row[key] for key in self._keys}): row for row in self._read()}

    def add(self, cell: Cell | VariantCell, measured: Mapping[str, float]) -> None:
        """Add a cell and write the whole table, first under a temporary name."""
        self.rows[cell] = {**asdict(cell), **measured}
        with whole_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, (*self._keys, *self.measures), lineterminator="\n")
            table.writeheader()
            for row in sorted(self.rows.items(), key=lambda item: self._order[item[0]]):
                table.writerow({key: short(value) for key, value in row[1].items()})

    def _read(self) -> list[Row]:
        """Return the rows with numbers parsed. Raises DataError for a table with other columns or values."""
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = [{key: self._value(key, text) for key, text in row.items()} for row in csv.DictReader(file)]
            return [{key: row[key] for key in (*self._keys, *self.measures)} for row in rows]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{self.path} is not a table of results ({error}): remove it") from error

    def _value(self, key: str, text: str) -> str | int | float:
        """Return a table's entry as text or number, by its column."""
        if key in NAMES:
            return text
        return int(text) if key in self._keys or text.isdigit() else float(text)

    def _keep(self, path: Path, measured: Mapping) -> None:
        """Write study.yaml, or raise ConfigError if it exists and differs."""
        if path.is_file():
            change = first_change(_loaded(path), measured)
            if change is not None:
                raise ConfigError(f"{path.parent} holds results of a different study ({change}): choose another folder "
                                  "with --out, or remove this one")
            return
        with whole_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(measured, sort_keys=False), encoding="utf-8")


def _loaded(path: Path):
    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not the description of a study: remove the folder, or choose another with --out"
                        ) from error


def first_change(old, new, where: str = "") -> str | None:
    """Return the first difference of two trees as "dotted.key was A, is B", or None if they are equal."""
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
    """Return a float with six digits as text, and any other value unchanged."""
    return f"{value:.6g}" if isinstance(value, float) else value
