"""Tables of results as Markdown and CSV, and their entries as text."""
import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.studies.measures import ENDS
from benchmarks.studies.results import Row, short
from common.errors import DataError
from common.files import whole_file

TEXT = ("sampler", "schedule", "guidance", "variant")  # columns that hold names


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, with intervals in parentheses after their values."""
    names = columns_of(rows)
    return table(names, [[as_text(row, name, 3) for name in names] for row in rows])


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns of rows without those that hold the ends of another one's interval."""
    columns = list(rows[0]) if rows else []
    return [name for name in columns
            if not any(name.endswith(end) and name.removesuffix(end) in columns for end in ENDS)]


def as_text(row: Row, name: str, digits: int = 4) -> str:
    """Return a value as text, with its interval if it has one."""
    low, high = (row.get(name + end) for end in ENDS)
    return _text(row[name], digits) if low is None else f"{_text(row[name], 3)} ({_text(low, 3)} to {_text(high, 3)})"


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        written = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        written.writeheader()
        written.writerows({key: short(value) for key, value in row.items()} for row in rows)


def read_table(path: Path, text: Sequence[str] = TEXT) -> list[Row]:
    """Read a table that `write_table` wrote; columns not in `text` hold numbers.

    Raises DataError if it is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: value if name in text else _number(value) for name, value in row.items()}
                    for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a table of results ({error}): copy it from the folder of the study's results"
                        ) from error


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


def _text(value: str | int | float, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
