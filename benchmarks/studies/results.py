"""The results of a study: a file for each solved cell, named by its key, and a table of those that are true now."""
import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.studies.base import Problem
from benchmarks.studies.grid import Cell, Study, VariantCell
from benchmarks.studies.keys import digest, key_parts, places_of
from common.errors import DataError
from common.files import whole_file
from common.partial_files import clear_dead
from common.typed import shown

logger = logging.getLogger(__name__)

SOLVED = "cell.json"  # written when everything else in a cell's folder is there
UNKEYED = "results_without_keys.csv"
Row = dict[str, str | int | float]


class Results:
    """The solved cells of a study, and the table `results.csv` of them in its folder, beside `study.yaml`.

    A cell counts as solved only if its file was written for the same configuration, source, weights and versions; what
    was solved with others stays beside it. Raises DataError for a damaged file.
    """

    def __init__(self, folder: Path, study: Study, problem: Problem):
        self.path, self.measures = folder / "results.csv", tuple(problem.measures)
        self._columns = (*study.keys, *self.measures)
        self._cells, self._parts = Path(problem.folder or folder / "cells"), key_parts(study, problem)
        self._places = places_of(self._parts, self._cells)
        problem.places.update(self._places)
        clear_dead(self.path)
        self._set_aside()
        found = {cell: _read(self._places[cell] / SOLVED, problem.measures, self._parts[cell])
                 for cell in study.cells()}
        self.rows: dict[Cell | VariantCell, Row] = {
            cell: {**asdict(cell), **measured} for cell, measured in found.items() if measured is not None}
        self._order = {cell: i for i, cell in enumerate(found)}
        with whole_file(folder / "study.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(study.measured(), sort_keys=False), encoding="utf-8")
        self._report()
        self._write_table()

    def add(self, cell: Cell | VariantCell, measured: Mapping[str, float]) -> None:
        """Add a cell: write its file as a whole, and then the table. Raises DataError for what are no measures."""
        if wrong := _no_measures(measured, self.measures):
            raise DataError(f"{cell}: {wrong}")
        with whole_file(self._places[cell] / SOLVED) as temporary:
            temporary.write_text(json.dumps({**self._parts[cell], "measured": measured}, indent=1, default=str))
        self.rows[cell] = {**asdict(cell), **measured}
        self._write_table()

    def _write_table(self) -> None:
        with whole_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._columns, lineterminator="\n")
            table.writeheader()
            for cell in sorted(self.rows, key=lambda cell: self._order[cell]):
                table.writerow({key: short(value) for key, value in self.rows[cell].items()})

    def _set_aside(self) -> None:
        """Rename a table that no keys belong to, of which nobody can say whether it is still true."""
        if self.path.is_file() and not any(self._cells.glob(f"*/{SOLVED}")) and _has_rows(self.path):
            self.path.replace(self.path.with_name(UNKEYED))
            logger.warning("%s has no keys, so that it may be of other code: it is %s now, and its cells are solved "
                           "again", self.path, UNKEYED)

    def _report(self) -> None:
        """Log how many cells were solved before under another key, and what is different for one of them."""
        earlier = {_name(path.parent): path for path in sorted(self._cells.glob(f"*/{SOLVED}"))}
        again = [cell for cell, place in self._places.items() if cell not in self.rows and _name(place) in earlier]
        if again:
            then, now = _loaded(earlier[_name(self._places[again[0]])]), self._parts[again[0]]
            change = first_change({part: then.get(part) for part in now}, now)
            logger.info("%d cells were solved before and are solved again; of the first, %s", len(again), change)


def _name(place: Path) -> str:
    """Return the name of a cell's folder without its key."""
    return place.name.rpartition(" ")[0]


def _has_rows(table: Path) -> bool:
    with open(table, encoding="utf-8", errors="replace") as file:
        return sum(1 for _ in file) > 1


def _read(path: Path, measures: Sequence[str], parts: Mapping) -> dict[str, float] | None:
    """Return the measures of a solved cell, None if it is not solved. Raises DataError for a damaged file, or one of
    another cell."""
    if not path.is_file():
        return None
    loaded = _loaded(path)
    measured = loaded.get("measured")
    if wrong := _no_measures(measured, measures):
        raise DataError(f"{path} does not hold the measures of a cell ({wrong}): remove its folder")
    if digest({key: value for key, value in loaded.items() if key != "measured"}) != digest(parts):
        raise DataError(f"{path} was written for another cell, or has been changed: remove its folder")
    return {name: measured[name] for name in measures}


def _no_measures(measured: Any, measures: Sequence[str]) -> str:
    """Return what is wrong with the measures of a cell, or nothing."""
    if not isinstance(measured, Mapping) or set(measured) != set(measures):
        given = ", ".join(map(str, measured)) if isinstance(measured, Mapping) else shown(measured)
        return f"its measures are {', '.join(measures)}, not {given or 'none'}"
    return next((f"{name} is {shown(value)}; it must be a number, such as float({name})"
                 for name, value in measured.items() if isinstance(value, bool) or not isinstance(value, int | float)),
                "")


def _loaded(path: Path) -> dict:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a solved cell ({error}): remove its folder") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path} is not a solved cell: remove its folder")
    return loaded


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
