"""The page of the reports that `benchmarks/study.py` wrote, each of which has filters of its own."""
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from benchmarks.studies.filters import POLICY
from cogvideo.studio.studio import Listener, Studio, note, problem
from common.text import printable

REPORT = "report.html"
ADDRESS = "/studies"
EMPTY = "no reports in {}; python -m benchmarks.study configs/studies/NAME.yaml writes one"
LOOK = """
iframe { width: 100%; height: 80vh; border: 1px solid #8884; background: #fff }
"""


class Reports(StaticFiles):
    """The reports below a folder, and nothing else in it.

    A report is a foreign page: it gets an origin of its own, loads nothing, and runs the script of its filters alone.
    """

    def __init__(self, folder: Path):
        super().__init__(directory=folder, check_dir=False)

    async def get_response(self, path: str, scope: Any) -> Any:
        if Path(path).name != REPORT:
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = f"sandbox allow-scripts; {POLICY}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def build(studio: Studio) -> Listener:
    """Build the page within its tab; return what lists the reports again."""
    with gr.Row():
        words = gr.Textbox(label="Name contains", elem_id="studies-words")
        name = gr.Dropdown([], label="Study", elem_id="studies-name", scale=2)
        again = gr.Button("Look again", elem_id="studies-again", min_width=110)
    report = gr.HTML(elem_id="studies-report", css_template=LOOK)

    def choices(text: object, chosen: object) -> tuple:
        found = [(label, one) for label, one in reports(studio.studies)
                 if all(word in label.lower() for word in str(text or "").lower().split())]
        names = [one for _, one in found]
        kept = str(chosen) if chosen in names else next(iter(names), None)
        return gr.Dropdown(choices=found, value=kept), shown(studio, kept)

    gr.on([words.change, again.click], choices, [words, name], [name, report], show_progress="hidden")
    gr.on(None, choices, [words, name], [name, report], show_progress="hidden")
    name.input(lambda chosen: shown(studio, chosen), name, report, show_progress="hidden")
    return choices, [words, name], [name, report]


def reports(folder: Path) -> list[tuple[str, str]]:
    """Return (label, name) of each study with a report, the newest first."""
    found = [(path.stat().st_mtime, printable(path.parent.name)) for path in folder.glob(f"*/{REPORT}")
             if path.resolve().is_relative_to(folder)]
    return [(f"{name.replace('_', ' ')} ({datetime.fromtimestamp(time):%Y-%m-%d %H:%M})", name)
            for time, name in sorted(found, reverse=True)]


def shown(studio: Studio, name: object) -> str:
    """Return the HTML that shows a report."""
    if name is None:
        return note(EMPTY.format(studio.studies))
    if name not in {known for _, known in reports(studio.studies)}:
        return problem(f"study {str(name)[:100]!r} has no report in {studio.studies.name}")
    return (f'<iframe sandbox="allow-scripts" title="report of {escape(str(name))}" '
            f'src="{ADDRESS}/{escape(quote(str(name)))}/{REPORT}"></iframe>')
