"""Videos side by side that play in step, with a slider for time and each one's difference to a reference."""
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from cogvideo.studio.differences import decibels, frames_and_rate
from common.errors import DataError

SCRIPT, LOOK = (Path(__file__).with_name(f"players.{kind}") for kind in ("js", "css"))


@dataclass(frozen=True)
class Shown:
    """A video to show: its file, its address for the browser, and what it is in one line.

    Where there is none, `problem` is the line that says why.
    """

    title: str
    path: Path | None = None
    url: str = ""
    problem: str = ""


def component(name: str) -> gr.HTML:
    """Return an element of the page that shows what `players` returns."""
    return gr.HTML(elem_id=name, js_on_load=SCRIPT.read_text(encoding="utf-8"),
                   css_template=LOOK.read_text(encoding="utf-8"))


def players(shown: Sequence[Shown], columns: int, reference: int = 0) -> str:
    """Return the HTML of videos in a grid; differences are to the video at index `reference`."""
    shown = [_readable(one) for one in shown]
    lengths = [frames_and_rate(one.path) for one in shown if one.path is not None]
    if not lengths:
        return f'<div class="players">{"".join(_figure(one, False, None) for one in shown)}</div>'
    frames, rate, base = max(length for length, _ in lengths), lengths[0][1], shown[reference].path
    figures = "".join(_figure(one, i == reference, base) for i, one in enumerate(shown))
    bar = ('<div class="bar"><button class="play" type="button">Pause</button>'
           f'<input class="time" type="range" min="0" max="{frames - 1}" step="1" value="0" aria-label="time">'
           '<output class="at"></output></div>')
    return (f'<div class="players" data-frames="{frames}" data-fps="{rate:g}">{bar}'
            f'<div class="grid" style="--columns:{columns}">{figures}</div></div>')


def _readable(one: Shown) -> Shown:
    """Return a video as it is, or the line that says why it cannot be shown."""
    try:
        if one.path is not None:
            frames_and_rate(one.path)
    except DataError as error:
        return Shown(one.title, problem=str(error))
    return one


def _figure(one: Shown, is_reference: bool, base: Path | None) -> str:
    """Return a video with its title, and its difference to `base` if that is another one."""
    caption = f"<figcaption>{escape(one.title)}</figcaption>"
    if one.path is None:
        return f'<figure>{caption}<div class="db wrong">{escape(one.problem)}</div></figure>'
    video = f'<video src="{escape(one.url)}" muted playsinline preload="auto"></video>'
    if is_reference:
        return f'<figure data-reference>{caption}{video}<div class="db">reference</div></figure>'
    if base is None:
        return f"<figure>{caption}{video}</figure>"
    try:
        values = decibels(base, one.path)
    except DataError as error:
        return f'<figure>{caption}{video}<div class="db wrong">{escape(str(error))}</div></figure>'
    shown = json.dumps([None if math.isinf(value) else round(value, 1) for value in values.frames])
    return (f'<figure data-db="{escape(shown)}">{caption}{video}<canvas title="difference, four times as strong">'
            f'</canvas><div class="db"><span class="now"></span>, whole video {_decibels(values.whole)}</div></figure>')


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"
