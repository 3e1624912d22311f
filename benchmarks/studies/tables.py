"""Tables of results as HTML, Markdown and CSV."""
import csv
import html
from collections.abc import Sequence
from pathlib import Path

from benchmarks.studies.results import Row, short
from common.files import whole_file

ENDS = ("_low", "_high")  # suffixes of the columns that hold an interval's ends


def html_table(rows: Sequence[Row]) -> str:
    """Return rows as an HTML table."""
    lines = [[*rows[0]], *([_text(value) for value in row.values()] for row in rows)] if rows else []
    return "<table>" + "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines) + "</table>"


def markdown_table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, with intervals in parentheses after their values."""
    names = [name for name in (rows[0] if rows else ()) if not name.endswith(ENDS)]
    lines = [names, ["---"] * len(names), *([_with_interval(row, name) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        written = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        written.writeheader()
        written.writerows({key: short(value) for key, value in row.items()} for row in rows)


def _with_interval(row: Row, name: str) -> str:
    """Return a value as text, with its interval if it has one."""
    low, high = (row.get(name + end) for end in ENDS)
    return _text(row[name], 3) if low is None else f"{_text(row[name], 3)} ({_text(low, 3)} to {_text(high, 3)})"


def _text(value: str | int | float, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
