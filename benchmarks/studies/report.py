"""The report of a study: plots, fitted orders, comparisons, and one HTML page with all of them."""
import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.studies.base import Problem
from benchmarks.studies.comparisons import compared, comparisons_of, told_apart
from benchmarks.studies.curves import slopes
from benchmarks.studies.filters import Value, filter_bar
from benchmarks.studies.grid import Study
from benchmarks.studies.losses import Losses
from benchmarks.studies.page import FILTERS, glossary, made, page, picture, table
from benchmarks.studies.plots import draw, plots_of
from benchmarks.studies.results import Results, Row
from benchmarks.studies.shown_videos import Shown, videos_of
from benchmarks.studies.tables import columns_of, markdown_table, write_table
from common.files import whole_file

Sections = list[tuple[str, str]]  # headings with their HTML
Tables = dict[str, Sequence[Row]]  # by name


def write_report(study: Study, problem: Problem, results: Results, folder: Path) -> Path:
    """Write the report to `folder`; return the path of report.html, which needs no other file.

    Writes the plots as PNG, what plots of losses show as CSV, slopes.csv and comparisons.csv if the study has them, and
    tables.md, all tables as Markdown.
    """
    solved = {cell: results.rows[cell] for cell in study.cells() if cell in results.rows}
    plots, panels = _plots(study, problem, results, solved, folder)
    tables = tables_of(study, problem, results, folder)
    with whole_file(folder / "tables.md") as temporary:
        temporary.write_text("\n\n".join(f"**{name}**\n\n{markdown_table(rows)}"
                                         for name, rows in (panels | tables).items()) + "\n", encoding="utf-8")
    columns = dict.fromkeys(name for rows in tables.values() for name in columns_of(rows))
    videos = [video for cell in solved for video in videos_of(cell, problem.place(cell))]
    sections = [*plots, *((name, table(rows)) for name, rows in tables.items()), *_section_of(videos),
                ("Glossary", glossary(columns))]
    bar = filter_bar(_choices(study, list(solved.values()), videos))
    with whole_file(folder / "report.html") as temporary:
        temporary.write_text(page(study.name.replace("_", " "), sections, _top(study, results), bar), encoding="utf-8")
    return folder / "report.html"


def tables_of(study: Study, problem: Problem, results: Results, folder: Path) -> Tables:
    """Return the tables that have rows: fitted orders, comparisons and all results. Writes the first two as CSV."""
    rows = [results.rows[cell] for cell in study.cells() if cell in results.rows]
    tables, fitted = {}, slopes(study, rows) if study.slopes else []
    if fitted:
        write_table(folder / "slopes.csv", fitted)
        tables["Orders: declared and fitted"] = fitted
    differences, chosen = differences_of(study, problem, results), {one.name: one for one in comparisons_of(study)}
    if differences:
        write_table(folder / "comparisons.csv", [{"comparison": name, **row} for name, found in differences.items()
                                                 for row in found])
    for name, found in differences.items():
        tables |= {f"{name}: differences, pair by pair": found,
                   f"{name}: pairs told apart": told_apart(chosen[name], found)}
    return tables | ({"All results": rows} if rows else {})


def _top(study: Study, results: Results) -> str:
    """Return the question, how much of it is computed, and when and with which code."""
    solved = sum(cell in results.rows for cell in study.cells())
    when = ""
    if results.path.is_file():
        changed = datetime.fromtimestamp(results.path.stat().st_mtime, UTC)
        when = f"Last result: {changed:%Y-%m-%d %H:%M} UTC. "
    return (f"<p>{html.escape(study.question)}</p><p class=note>{solved} of {len(study.cells())} cells. {when}"
            f"Report: {html.escape(made())}.</p>")


def _plots(study: Study, problem: Problem, results: Results, solved: Mapping, folder: Path) -> tuple[Sections, Tables]:
    """Draw the plots; return them as sections, with panels too small to draw as tables, and those tables by name."""
    sections, tables = [], {}
    for plot in plots_of(study, results.measures):
        path, title = folder / f"{study.name}_{plot.name}.png", plot.title or plot.name
        losses = plot.rows(problem, list(solved)) if isinstance(plot, Losses) else []
        if losses:
            write_table(path.with_suffix(".csv"), losses)
        drawn = draw(plot, study, solved, losses, path)
        shown = [picture(drawn.path, title)] if drawn.path else []
        shown += [f"<h3>{html.escape(name)}</h3>{table(rows)}" for name, rows in drawn.tables.items()]
        sections += [(title, "".join(shown))] if shown else []
        tables |= {f"{title}: {name}": rows for name, rows in drawn.tables.items()}
    return sections, tables


def _section_of(videos: Sequence[Shown]) -> Sections:
    """Return a section of the videos, if there are any."""
    shown = "".join(video.html for video in videos)
    return [("Videos", f'<div class="videos">{shown}</div>')] if videos else []


def _choices(study: Study, rows: Sequence[Row], videos: Sequence[Shown]) -> dict[str, list[Value]]:
    """Return what the page can be filtered by: values of the cells, and the judgement of videos."""
    choices = {name: list(dict.fromkeys(row[name] for row in rows)) for name in FILTERS if name in study.keys}
    return choices | {"judged": list(dict.fromkeys(video.judged for video in videos))}


def differences_of(study: Study, problem: Problem, results: Results) -> dict[str, list[Row]]:
    """Return the rows of each comparison by name, without comparisons of which nothing is solved."""
    found = {comparison.name: compared(comparison, results.rows, problem.clips, study.budgets())
             for comparison in comparisons_of(study)}
    return {name: rows for name, rows in found.items() if rows}
