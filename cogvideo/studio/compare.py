"""The page that makes one prompt with one seed in several ways, and plays the videos side by side."""
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from cogvideo.studio import choices, players
from cogvideo.studio.cells import Cell, cells_of
from cogvideo.studio.choices import COLUMNS, KINDS, ROWS, STEPS, Axis
from cogvideo.studio.forms import SAMPLER
from cogvideo.studio.making import make
from cogvideo.studio.players import Shown
from cogvideo.studio.stopping import WAIT, Stopped, Stops, check_going
from cogvideo.studio.studio import QUEUED, Studio, note, problem
from cogvideo.studio.warned import Warned
from common.console import told
from sgm.sampling import StepInfo

PROMPT = "a red circle moves right on a black background"
FIRST_ROWS, FIRST_COLUMNS = ["EulerEDMSampler", "UniPCSampler"], ["6", "12"]


def build(studio: Studio) -> None:
    """Build the page within its tab."""
    names = [name for name, model in studio.models.items() if model.source() is None]
    with gr.Row():
        model = gr.Dropdown(names, value=names[0] if names else None, label="Model", elem_id="compare-model")
        prompt = gr.Textbox(PROMPT, label="Prompt", elem_id="compare-prompt", scale=3, max_lines=1)
        seed = gr.Number(0, label="Seed", precision=0, elem_id="compare-seed", min_width=90)
    sides = (*_axis("rows", ROWS, SAMPLER, FIRST_ROWS), *_axis("columns", COLUMNS, STEPS, FIRST_COLUMNS))
    with gr.Row():
        start = gr.Button("Compare", variant="primary", elem_id="compare-start")
        stop = gr.Button("Stop", elem_id="compare-stop")
        reference = gr.Dropdown([], label="Differences are to", elem_id="compare-reference", visible=False, scale=2)
    message = gr.HTML(elem_id="compare-message")
    grid = players.component("compare-grid")
    made = gr.State(([], 1))
    stops = Stops()

    def compare(request: gr.Request, *given: Any) -> Iterator[tuple]:
        with stops.running(request) as stopping:
            yield from _compared(studio, stopping, *given)

    inputs: list = [model, prompt, seed, *sides]
    start.click(stops.begin, None, message, queue=False, show_progress="hidden").then(
        compare, inputs, [message, grid, made, reference], **QUEUED)
    stop.click(stops.stop, None, message, queue=False, show_progress="hidden")
    reference.input(lambda chosen, state: _again(state, chosen), [reference, made], grid, show_progress="hidden")


def _axis(side: str, most: int, kind: str, values: Sequence[str]) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Build the choice of what differs along one side of the grid."""
    with gr.Row():
        chosen = gr.Dropdown(list(KINDS), value=kind, label=f"In {side}", elem_id=f"compare-{side}", min_width=120)
        listed = gr.Dropdown(choices.names_of(kind), value=list(values), multiselect=True, max_choices=most,
                             allow_custom_value=True, label=f"up to {most}", elem_id=f"compare-{side}-values", scale=3)

    listed_kind = gr.State(kind)

    def changed(kind: str, before: str) -> tuple:
        if kind == before:  # Gradio tells of a choice twice
            return gr.skip(), gr.skip()
        return gr.Dropdown(choices=choices.names_of(kind), value=[], visible=kind != choices.NOTHING), kind

    chosen.input(changed, [chosen, listed_kind], [listed, listed_kind], show_progress="hidden")
    return chosen, listed


def _compared(studio: Studio, stopping: threading.Event, name: object, prompt: object, seed: object, *axes: Any
              ) -> Iterator[tuple]:
    """Yield a message, the players, what they show, and the choice of a reference, as the videos are made."""
    hidden, warned = gr.Dropdown(visible=False), Warned()
    try:
        rows = Axis.of(axes[0], axes[1], ROWS, "rows")
        columns = Axis.of(axes[2], axes[3], COLUMNS, "columns")
        with warned.heard():
            cells = cells_of(studio, name, prompt, seed, choices.grid_of(rows, columns))
    except Exception as error:  # a fault is one line, too, as on the command line
        yield problem(told(error)) + warned.html(), "", ([], 1), hidden
        return
    shown = [Shown(cell.title, problem="waits") for cell in cells]
    width = len(columns.values)
    for i, cell in enumerate(cells):
        for line in _made(studio, stopping, cell, shown, i, warned):
            message = note(f"video {i + 1} of {len(cells)}: {cell.title}{line}")
            yield message + warned.html(), gr.skip(), gr.skip(), hidden
        yield gr.skip(), players.players(shown, width, _first(shown)), (shown, width), hidden
    there = [one.title for one in shown if one.path is not None]
    line = "stopped; what was finished is kept" if stopping.is_set() else f"{len(there)} of {len(cells)} videos made"
    yield note(line) + warned.html(), gr.skip(), gr.skip(), gr.Dropdown(
        choices=there, value=there[0] if there else None, visible=len(there) > 1)


def _made(studio: Studio, stopping: threading.Event, cell: Cell, shown: list[Shown], i: int, warned: Warned
          ) -> Iterator[str]:
    """Make the video of a cell, put it or the reason why there is none in its place, and yield how far it is."""
    last, made = list[StepInfo](), list[Path]()

    def watch(step: StepInfo) -> None:
        check_going(studio, stopping)
        last[:] = [step]

    def run() -> None:
        with warned.heard():
            make(studio, cell.given, watch, made.append)

    if stopping.is_set():
        shown[i] = Shown(cell.title, problem="stopped")
        return
    future = studio.worker.submit(run)
    while not future.done():
        yield f", step {last[0].index + 1} of {last[0].num_steps}" if last else ", loading"
        stopping.wait(WAIT) if not stopping.is_set() else future.exception()
    try:
        future.result()
        shown[i] = Shown(cell.title, made[0], studio.url(made[0]))
    except Stopped:
        shown[i] = Shown(cell.title, problem="stopped")
    except Exception as error:  # a fault is one line in its cell, as on the command line
        shown[i] = Shown(cell.title, problem=told(error))


def _first(shown: Sequence[Shown]) -> int:
    """Return the index of the first video that is there, 0 if there is none."""
    return next((i for i, one in enumerate(shown) if one.path is not None), 0)


def _again(state: tuple[list[Shown], int], title: object) -> str:
    """Return the players with differences to the video of this title."""
    shown, columns = state
    index = next((i for i, one in enumerate(shown) if one.title == title and one.path is not None), _first(shown))
    return players.players(shown, columns, index) if shown else ""
