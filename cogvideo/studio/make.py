"""The page on which videos are made."""
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cogvideo.studio.form import Form, filled_form
from cogvideo.studio.making import Asked, Ready, make, ready
from cogvideo.studio.progress import Progress, curve, picture
from cogvideo.studio.records import filled
from cogvideo.studio.stopping import WAIT, Stopped, Stops, check_going
from cogvideo.studio.studio import QUEUED, Studio, note, problem
from cogvideo.studio.warned import Warned
from common.console import told
from common.files import REPOSITORY
from dry_run.report import plan_lines, planned_model
from inference.checks import check_run
from media.records import RECORD
from media.videos import SHEET
from sgm.sampling import StepInfo

Page = tuple[str, str, str, str, Any, Any]  # message, plan, course, videos, choice of a record, button beside it


@dataclass(frozen=True)
class Parts:
    """What is beside the form: the buttons, and what shows a run and its videos."""

    start: gr.Button
    stop: gr.Button
    plan: gr.Button
    message: gr.HTML
    planned: gr.HTML
    course: gr.HTML
    videos: gr.HTML
    record: gr.Dropdown
    again: gr.Button

    @property
    def shown(self) -> list:
        return [self.message, self.planned, self.course, self.videos, self.record, self.again]


def build(studio: Studio) -> None:
    """Build the page within its tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            form = Form.built(studio)
        with gr.Column(scale=6, min_width=320):
            parts = _parts()
    form.wire(studio)
    stops = Stops()

    def wait(request: gr.Request) -> tuple[str, gr.Button]:
        return stops.begin(request), gr.Button(interactive=False)

    def start(request: gr.Request, *given: Any) -> Iterator[Page]:
        with stops.running(request) as stopping:
            yield from _run(studio, stopping, form.asked(given))

    parts.start.click(wait, None, [parts.message, parts.start], queue=False, show_progress="hidden").then(
        start, form.inputs, parts.shown, show_progress="hidden", **QUEUED).then(
        lambda: gr.Button(interactive=True), None, parts.start, queue=False, show_progress="hidden")
    parts.stop.click(stops.stop, None, parts.message, queue=False, show_progress="hidden")
    parts.plan.click(lambda *given: _planned(studio, form.asked(given)), form.inputs, [parts.message, parts.planned],
                     show_progress="minimal")
    parts.again.click(lambda name: _again(studio, form, name), parts.record, [parts.message, *form.filled],
                      show_progress="hidden")


def _parts() -> Parts:
    with gr.Row():
        start = gr.Button("Make", variant="primary", elem_id="make-start")
        stop = gr.Button("Stop", elem_id="make-stop")
        plan = gr.Button("Plan", elem_id="make-plan")
    message, planned, course, videos = (gr.HTML(elem_id=f"make-{name}") for name in (
        "message", "planned", "course", "videos"))
    with gr.Row():
        record = gr.Dropdown([], label="A video made here", elem_id="make-record", visible=False, scale=3)
        again = gr.Button("Again with this", elem_id="make-again", visible=False, scale=1)
    return Parts(start, stop, plan, message, planned, course, videos, record, again)


def _planned(studio: Studio, asked: Asked) -> tuple[str, str]:
    """Return a message and the plan of a run, in which nothing is made."""
    warned = Warned()
    try:
        with warned.heard():
            plan = plan_of(ready(studio, asked, studio.temporary / "planned"))
        return warned.html(), plan
    except Exception as error:  # a fault is one line, too, as on the command line
        return problem(told(error)) + warned.html(), ""


def plan_of(given: Ready) -> str:
    """Return the HTML of what `--plan` says of a run."""
    found = (line.replace(f"{REPOSITORY}/", "") for line in plan_lines(given.args, planned_model(given.args)))
    lines = [line.partition(": ") for line in found]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(rest)}</dd>" for name, _, rest in lines)
    return f'<details class="plan" open><summary>Plan</summary><dl>{rows}</dl></details>'


def _run(studio: Studio, stopping: threading.Event, asked: Asked) -> Iterator[Page]:
    """Make the videos that were asked for, and yield what the page shows of it."""
    hidden, warned = gr.skip(), Warned()
    try:
        with warned.heard():
            given = ready(studio, asked)
            plan = plan_of(given)
    except Exception as error:
        yield problem(told(error)) + warned.html(), "", "", "", hidden, hidden
        return
    progress, made = Progress(len(given.jobs)), list[Path]()
    future = studio.worker.submit(_made, studio, given, stopping, progress, made, warned)
    seen = -1
    while not future.done():
        course = picture(progress.picture) + curve(progress.scales, progress.steps)
        videos = _videos(studio, made) if len(made) != seen else gr.skip()
        yield note(progress.line()) + warned.html(), plan, course, videos, hidden, hidden
        seen = len(made)
        time.sleep(WAIT)
    names = [str(path.relative_to(studio.outputs)) for path in made]
    chosen = gr.Dropdown(choices=names, value=names[0], visible=True) if names else hidden
    yield (_ended(future.exception(), len(made), given) + warned.html(), plan, curve(progress.scales, progress.steps),
           _videos(studio, made), chosen, gr.Button(visible=True) if names else hidden)


def _ended(error: BaseException | None, made: int, given: Ready) -> str:
    """Return the message at the end of a run."""
    folder = Path(given.args.sampling.output_dir)
    if error is None:
        return note(f"{made} video(s) in {folder.parent.name}/{folder.name}")
    if isinstance(error, Stopped):
        return note(f"stopped; {made} of {len(given.jobs)} video(s) were finished and are kept")
    kept = f" ({made} of {len(given.jobs)} video(s) were finished and are kept)" if made else ""
    return problem(told(error) + kept) if isinstance(error, Exception) else problem("the studio is closing")


def _made(studio: Studio, given: Ready, stopping: threading.Event, progress: Progress, made: list[Path],
          warned: Warned) -> None:
    """Make the videos in the studio's thread, until the user or the studio's end stops it."""

    def watch(step: StepInfo) -> None:
        check_going(studio, stopping)
        progress.watch(step)

    def finished(path: Path) -> None:
        made.append(path)
        progress.made += 1

    check_going(studio, stopping)
    with warned.heard():
        progress.engine = studio.pipeline(given.args, given.limits).engine
        make(studio, given, watch, finished)


def _videos(studio: Studio, made: list[Path]) -> str:
    """Return the HTML of finished videos: playing, their frames as a strip, and links to their files."""
    return "".join(_video(studio, path) for path in made)


def _video(studio: Studio, path: Path) -> str:
    address, strip, record = (escape(studio.url(path.with_name(name))) for name in (path.name, SHEET, RECORD))
    content = json.loads(path.with_name(RECORD).read_text(encoding="utf-8"))
    return (f'<figure class="video"><video src="{address}" autoplay loop muted playsinline controls></video>'
            f'<img src="{strip}" alt="its frames"><figcaption><b>{escape(content["prompt"])}</b>, seed '
            f'{content["seed"]}, sample {content["sample"]}: <a href="{address}" download>video</a>, '
            f'<a href="{strip}" download>frames</a>, '
            f'<a href="{record}" target="_blank">record</a></figcaption></figure>')


def _again(studio: Studio, form: Form, name: object) -> list:
    """Return a message, and the form filled in from a video's record."""
    try:
        message, values = filled(studio, name)
        model = studio.model(values["model"])
        check_run(model.arguments())
        return [message, *form.values(filled_form(model, values))]
    except Exception as error:
        return [problem(told(error)), *(gr.skip() for _ in form.filled)]

