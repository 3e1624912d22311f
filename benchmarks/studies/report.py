"""What a study found: plots, fitted orders, and one HTML page that holds all of it."""
import base64
import csv
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from files import whole_file

from benchmarks.studies.curves import plots_of, slopes
from benchmarks.studies.grid import Study
from benchmarks.studies.plots import draw
from benchmarks.studies.results import Results, Row

STYLE = ("body{font:15px sans-serif;max-width:1100px;margin:2em auto}table{border-collapse:collapse;font-size:13px}"
         "td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}img{max-width:100%}")
MOST_SHEETS = 40


def write_report(study: Study, results: Results, folder: Path, videos: Path | None = None) -> Path:
    """PNGs, slopes.csv where the study asks for it, and report.html, which needs no other file.

    `videos` is a folder with a folder for each cell; one contact sheet of each is shown.
    """
    rows = [results.rows[cell] for cell in study.cells() if cell in results.rows]
    parts = [f"<h1>{html.escape(study.name)}</h1><p>{html.escape(study.question)}</p>",
             f"<p>{len(rows)} of {len(study.cells())} cells.</p>"]
    for plot in plots_of(study, results.measures):
        path = folder / f"{study.name}_{plot.name}.png"
        if draw(plot, rows, path):
            parts.append(f"<h2>{html.escape(plot.title or plot.name)}</h2>{image(path)}")
    if study.slopes and rows:
        fitted = slopes(study, rows)
        write_table(folder / "slopes.csv", fitted)
        parts.append("<h2>Orders: declared and fitted</h2>" + table(fitted))
    parts += sheets(videos) if videos is not None else []
    parts.append("<h2>All results</h2>" + table(rows))
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(study.name)}</title><style>{STYLE}</style>"
    with whole_file(folder / "report.html") as temporary:
        temporary.write_text(page + "\n".join(parts), encoding="utf-8")
    return folder / "report.html"


def sheets(videos: Path) -> Iterable[str]:
    folders = [path for path in sorted(videos.glob("*")) if path.is_dir()]
    for folder in folders[:MOST_SHEETS]:
        found = sorted(folder.rglob("*.png"))
        if found:
            yield f"<h3>{html.escape(folder.name)}</h3>{image(found[0])}"


def image(path: Path) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def table(rows: Sequence[Row]) -> str:
    lines = [[*rows[0]], *([_text(value) for value in row.values()] for row in rows)] if rows else []
    return "<table>" + "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines) + "</table>"


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        written = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        written.writeheader()
        written.writerows(rows)


def _text(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
