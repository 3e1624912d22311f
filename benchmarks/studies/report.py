"""What a study found: plots, fitted orders, and one HTML page that holds all of it."""
import base64
import csv
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from files import whole_file

from benchmarks.studies.comparisons import compared, comparisons_of
from benchmarks.studies.curves import slopes
from benchmarks.studies.grid import Study
from benchmarks.studies.plots import draw, plots_of
from benchmarks.studies.problems import Problem
from benchmarks.studies.results import Results, Row, short

STYLE = ("body{font:15px sans-serif;max-width:1100px;margin:2em auto}table{border-collapse:collapse;font-size:13px}"
         "td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}img{max-width:100%}")
VIDEOS = 4  # shown of each cell
SIDE = 128  # of a video on the page, in pixels


def write_report(study: Study, problem: Problem, results: Results, folder: Path) -> Path:
    """PNGs, slopes.csv and comparisons.csv where the study asks for them; report.html, which needs no other file."""
    solved = {cell: results.rows[cell] for cell in study.cells() if cell in results.rows}
    rows = list(solved.values())
    parts = [f"<h1>{html.escape(study.name)}</h1><p>{html.escape(study.question)}</p>",
             f"<p>{len(rows)} of {len(study.cells())} cells.</p>"]
    for plot in plots_of(study, results.measures):
        path = folder / f"{study.name}_{plot.name}.png"
        if draw(plot, study, problem, solved, path):
            parts.append(f"<h2>{html.escape(plot.title or plot.name)}</h2>{image(path)}")
    if study.slopes and rows:
        fitted = slopes(study, rows)
        write_table(folder / "slopes.csv", fitted)
        parts.append("<h2>Orders: declared and fitted</h2>" + table(fitted))
    parts += comparison_tables(study, problem, results, folder)
    parts.append("<h2>All results</h2>" + table(rows))
    if hasattr(problem, "folder"):
        parts += videos_of(study, results, Path(problem.folder))
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(study.name)}</title><style>{STYLE}</style>"
    with whole_file(folder / "report.html") as temporary:
        temporary.write_text(page + "\n".join(parts), encoding="utf-8")
    return folder / "report.html"


def comparison_tables(study: Study, problem: Problem, results: Results, folder: Path) -> Iterable[str]:
    """The pages' tables; writes comparisons.csv."""
    found = []
    for comparison in comparisons_of(study):
        differences = compared(comparison, results.rows, problem.clips)
        if differences:
            found += [{"comparison": comparison.name, **row} for row in differences]
            yield f"<h2>{html.escape(comparison.name)}: differences, pair by pair</h2>{table(differences)}"
    if found:
        write_table(folder / "comparisons.csv", found)


def videos_of(study: Study, results: Results, folder: Path) -> Iterable[str]:
    """A line of videos for each cell that was solved, those of the first captions."""
    for cell in study.cells():
        shown = sorted((folder / str(cell)).rglob("*.mp4"))[:VIDEOS] if cell in results.rows else []
        if shown:
            yield f"<h3>{html.escape(str(cell))}</h3>{' '.join(map(video, shown))}"


def video(path: Path) -> str:
    return f'<video autoplay loop muted width={SIDE} src="data:video/mp4;base64,{encoded(path)}"></video>'


def image(path: Path) -> str:
    return f'<img src="data:image/png;base64,{encoded(path)}">'


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def table(rows: Sequence[Row]) -> str:
    lines = [[*rows[0]], *([_text(value) for value in row.values()] for row in rows)] if rows else []
    return "<table>" + "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines) + "</table>"


def write_table(path: Path, rows: Sequence[Row]) -> None:
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        written = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        written.writeheader()
        written.writerows({key: short(value) for key, value in row.items()} for row in rows)


def _text(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
