"""Parts of a report's page as HTML that needs no other file: frame, tables, pictures, glossary."""
import base64
import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.studies.filters import POLICY, SCRIPT, filtered_by
from benchmarks.studies.measures import measure_of
from benchmarks.studies.results import Row
from benchmarks.studies.tables import as_text, columns_of
from common.source_code import git, has_changes

FILTERS = ("sampler", "schedule", "guidance", "variant", "steps", "seed")  # columns that can be filtered by
STYLE = """
body{font:16px/1.45 system-ui,sans-serif;max-width:1000px;margin:1.5em auto;padding:0 1em;color:#1a1a1a;background:#fff}
h1,h2{line-height:1.2;overflow-wrap:anywhere}
h2{margin-top:2em}
.filters{position:sticky;top:0;z-index:1;background:#fff;border-bottom:1px solid #ddd;padding:.5em 0;margin-top:1em;
display:flex;flex-wrap:wrap;gap:.4em 1em;font-size:14px}
.filters select{max-width:11em}
[hidden]{display:none!important}
nav a{display:inline-block;margin-right:1.2em}
.note{color:#555}
.scroll{overflow:auto;max-height:75vh;width:fit-content;max-width:100%;border:1px solid #ddd}
table{border-collapse:separate;border-spacing:0;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:3px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid #eee}
th{position:sticky;top:0;background:#f3f3f3}
.word{text-align:left}
.picture{overflow-x:auto}
.picture img{width:100%;min-width:640px;max-width:1000px;display:block}
.videos{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
figure{margin:0}
figcaption{font-size:12.5px;line-height:1.35;overflow-wrap:anywhere}
video{width:100%;display:block;image-rendering:pixelated;background:#eee}
.right{color:#00664a;font-weight:600}
.wrong{color:#a33a00;font-weight:600}
dt{font-weight:600}
dd{margin:0 0 .5em 1.2em}
"""


def page(title: str, sections: Sequence[tuple[str, str]], top: str, bar: str = "") -> str:
    """Return the page: title, `top`, links to the sections, `bar`, and the sections, which are (heading, HTML)."""
    links = " ".join(f'<a href="#part{i}">{html.escape(heading)}</a>' for i, (heading, _) in enumerate(sections))
    parts = "\n".join(f'<section id="part{i}"><h2>{html.escape(heading)}</h2>{content}</section>'
                      for i, (heading, content) in enumerate(sections))
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
            f"<body><h1>{html.escape(title)}</h1>{top}<nav>{links}</nav>{bar}\n{parts}<script>{SCRIPT}</script></body></html>\n")


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table that scrolls inside the page, with intervals behind their values."""
    if not rows:
        return ""
    names = columns_of(rows)
    words = {name for name in names if all(isinstance(row[name], str) for row in rows)}

    def line(start: str, tag: str, cells: Iterable[tuple[str, str]]) -> str:
        return start + "".join(f"<{tag}{' class=word' if name in words else ''}>{html.escape(text)}</{tag}>"
                                for name, text in cells) + "</tr>"

    head = line("<tr>", "th", ((name, measure_of(name).spoken) for name in names))
    body = "".join(line(f"<tr {filtered_by({name: row[name] for name in names if name in FILTERS})}>", "td",
                        ((name, as_text(row, name)) for name in names)) for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def picture(path: Path, title: str) -> str:
    """Return an image with the file embedded; on a narrow screen it scrolls, so that its text stays readable."""
    return (f'<div class="picture" tabindex="0"><img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{encoded(path)}"></div>')


def encoded(path: Path) -> str:
    """Return the file in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def glossary(columns: Iterable[str]) -> str:
    """Return what each of the columns means, as far as it is known."""
    known = [one for one in map(measure_of, columns) if one.meaning]
    meanings = {one.spoken: "; ".join(filter(None, (one.meaning, one.best))) for one in known}
    return "<dl>" + "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}.</dd>"
                            for name, meaning in meanings.items()) + "</dl>"


def made() -> str:
    """Return the date, and the commit of the code if git knows it, as in "2026-11-29 14:05 UTC, commit 1a2b3c4"."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    commit = git("rev-parse", "--short", "HEAD")
    changed = " with changes that are not committed" if commit and has_changes() else ""
    return f"{now}, commit {commit or 'unknown'}{changed}"
