"""The report of a study: plots, fitted orders, comparisons, and one HTML page with all of them."""
import base64
import html
from collections.abc import Iterable
from pathlib import Path

from benchmarks.studies.base import Problem
from benchmarks.studies.comparisons import compared, comparisons_of
from benchmarks.studies.curves import slopes
from benchmarks.studies.grid import Study
from benchmarks.studies.plots import draw, plots_of
from benchmarks.studies.results import Results, Row
from benchmarks.studies.tables import html_table, markdown_table, write_table
from common.files import whole_file

STYLE = ("body{font:15px sans-serif;max-width:1100px;margin:2em auto}table{border-collapse:collapse;font-size:13px}"
         "td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}img{max-width:100%}")
VIDEOS = 4  # shown for each cell
SIDE = 128  # width of a video on the page, in pixels


def write_report(study: Study, problem: Problem, results: Results, folder: Path) -> Path:
    """Write the report to `folder`; return the path of report.html, which needs no other file.

    Writes the plots as PNG, slopes.csv and comparisons.csv if the study has them, and tables.md, the results and
    comparisons as Markdown.
    """
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
        parts.append("<h2>Orders: declared and fitted</h2>" + html_table(fitted))
    differences = differences_of(study, problem, results)
    parts += [f"<h2>{html.escape(name)}: differences, pair by pair</h2>{html_table(found)}"
              for name, found in differences.items()]
    if differences:
        write_table(folder / "comparisons.csv", [row for found in differences.values() for row in found])
    parts.append("<h2>All results</h2>" + html_table(rows))
    with whole_file(folder / "tables.md") as temporary:
        temporary.write_text("\n\n".join(map(markdown_table, (rows, *differences.values()))) + "\n", encoding="utf-8")
    parts += videos_of(study, results, problem)
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(study.name)}</title><style>{STYLE}</style>"
    with whole_file(folder / "report.html") as temporary:
        temporary.write_text(page + "\n".join(parts), encoding="utf-8")
    return folder / "report.html"


def differences_of(study: Study, problem: Problem, results: Results) -> dict[str, list[Row]]:
    """Return the rows of each comparison by name, without comparisons of which nothing is solved."""
    found = {comparison.name: compared(comparison, results.rows, problem.clips) for comparison in comparisons_of(study)}
    return {name: [{"comparison": name, **row} for row in rows] for name, rows in found.items() if rows}


def videos_of(study: Study, results: Results, problem: Problem) -> Iterable[str]:
    """Yield a heading and the first VIDEOS videos of each solved cell, as HTML."""
    for cell in study.cells():
        shown = sorted(problem.place(cell).rglob("*.mp4"))[:VIDEOS] if cell in results.rows else []
        if shown:
            yield f"<h3>{html.escape(str(cell))}</h3>{' '.join(map(video, shown))}"


def video(path: Path) -> str:
    """Return an HTML video element with the file embedded."""
    return f'<video autoplay loop muted width={SIDE} src="data:video/mp4;base64,{encoded(path)}"></video>'


def image(path: Path) -> str:
    """Return an HTML image element with the file embedded."""
    return f'<img src="data:image/png;base64,{encoded(path)}">'


def encoded(path: Path) -> str:
    """Return the file in base64."""
    return base64.b64encode(path.read_bytes()).decode()
