"""The page of everything in the folder of outputs: filtered, page by page, with records, and two to compare."""
import json
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cogvideo.studio import players
from cogvideo.studio.library import Video, record_of, thumbnail, video_named, videos_of
from cogvideo.studio.players import Shown
from cogvideo.studio.studio import Listener, Studio, note, problem
from common.console import told
from common.errors import UserError

PAGE = 24  # videos
ALL = "all"
LONGEST_RECORD = 60_000  # characters shown
SCRIPT, LOOK = (Path(__file__).with_name(f"gallery.{kind}") for kind in ("js", "css"))


def build(studio: Studio) -> Listener:
    """Build the page within its tab; return what lists the videos again."""
    with gr.Row():
        words = gr.Textbox(label="Prompt contains", elem_id="gallery-words", scale=2)
        model = gr.Dropdown([ALL], value=ALL, label="Model", elem_id="gallery-model")
        sampler = gr.Dropdown([ALL], value=ALL, label="Sampler", elem_id="gallery-sampler")
        number = gr.Number(1, label="Page", precision=0, minimum=1, elem_id="gallery-page", min_width=80)
        again = gr.Button("Look again", elem_id="gallery-again", min_width=110)
    count = gr.HTML(elem_id="gallery-count")
    cards = gr.HTML(elem_id="gallery-cards", js_on_load=SCRIPT.read_text(encoding="utf-8"),
                    css_template=LOOK.read_text(encoding="utf-8"))
    message = gr.HTML(elem_id="gallery-message")
    both = players.component("gallery-both")
    record = gr.Code(language="json", label="Record", visible=False, max_lines=24, interactive=False, wrap_lines=True,
                     elem_id="gallery-record")
    picked = gr.State([])
    filters: list = [words, model, sampler, number, picked]
    listed: list = [count, cards, model, sampler]

    def listing(*given: Any) -> tuple:
        return _listing(studio, *given)

    def chosen(picks: list[str], event: gr.EventData) -> tuple:
        return _chosen(studio, picks, event)

    gr.on([words.input, model.input, sampler.input], lambda: 1, None, number, queue=False, show_progress="hidden")
    gr.on(None, listing, filters, listed, show_progress="hidden")  # when the page opens, and when a filter changes
    again.click(listing, filters, listed, show_progress="hidden")
    cards.chosen(chosen, picked, [picked, message, both, record], show_progress="hidden")
    return listing, filters, listed


def _listing(studio: Studio, words: object, model: object, sampler: object, number: object, picked: Sequence[str]
             ) -> tuple:
    """Return the line of counts, the cards of a page, and the filters' choices."""
    videos = videos_of(studio.outputs)
    found = [video for video in videos if _fits(video, words, model, sampler)]
    pages = max(-(-len(found) // PAGE), 1)
    page = min(max(int(number), 1), pages) if isinstance(number, int | float) else 1
    shown = found[(page - 1) * PAGE:page * PAGE]
    line = f"{len(found)} of {len(videos)} videos in {studio.outputs.name}, page {page} of {pages}"
    cards = "".join(_card(studio, video, video.name in picked) for video in shown)
    return (note(line), f'<div class="gallery">{cards}</div>', *(
        gr.Dropdown(choices=[ALL, *sorted({getattr(video, name) for video in videos} - {""})])
        for name in ("model", "sampler")))


def _fits(video: Video, words: object, model: object, sampler: object) -> bool:
    """Return True for a video with all words in its prompt, and with this model and sampler."""
    text = video.prompt.lower()
    return (all(word in text for word in str(words or "").lower().split())
            and model in (ALL, None, video.model) and sampler in (ALL, None, video.sampler))


def _card(studio: Studio, video: Video, picked: bool) -> str:
    """Return the HTML of a video: its picture, what its record says, and its buttons."""
    picture = thumbnail(video.path, video.time)
    wrong = "; ".join(filter(None, (video.problem, "" if picture else "it cannot be shown")))
    shown = '<div class="none"></div>'
    if picture:
        shown = f'<img src="{picture}" alt="" data-video="{escape(studio.url(video.path))}">'
    lines = [f"<b>{escape(video.prompt or video.name)}</b>",
             f'<span class="what">{escape(video.setting)}</span>',
             f'<span class="what">{datetime.fromtimestamp(video.time):%Y-%m-%d %H:%M}</span>',
             f'<span class="wrong">{escape(wrong)}</span>' if wrong else ""]
    buttons = ('<button type="button" data-do="record">record</button>'
               + (f'<button type="button" data-do="pick">{"not this" if picked else "compare"}</button>' if picture
                  else ""))
    return (f'<article data-name="{escape(video.name)}"{" class=picked" if picked else ""}>{shown}{"".join(lines)}'
            f"<div>{buttons}</div></article>")


def _chosen(studio: Studio, picked: Sequence[str], event: gr.EventData) -> tuple:
    """Return the picks, a message, the players and the record after a button of a card was pressed."""
    given = event._data if isinstance(event._data, dict) else {}
    try:
        if given.get("action") == "record":
            return list(picked), "", gr.skip(), gr.Code(value=_record(studio, given.get("name")), visible=True)
        return (*_compared(studio, picked, given.get("name")), gr.Code(visible=False))
    except UserError as error:
        return list(picked), problem(told(error)), gr.skip(), gr.skip()


def _record(studio: Studio, name: object) -> str:
    """Return a video's record as text. Raises DataError for one that is missing or damaged."""
    text = json.dumps(record_of(studio.outputs, name), indent=2, ensure_ascii=False)
    return text if len(text) <= LONGEST_RECORD else f"{text[:LONGEST_RECORD]}\n… ({len(text)} characters)"


def _compared(studio: Studio, picked: Sequence[str], name: object) -> tuple[list[str], str, str]:
    """Return the picks with this one added or taken away, and the players of two. Raises DataError as its parts do."""
    video, there = video_named(studio.outputs, name), {one.name for one in videos_of(studio.outputs)}
    known = [one for one in picked if one in there]  # without those whose files are gone
    picks = [one for one in known if one != video.name]
    if len(picks) == len(known):
        picks = [*picks[-1:], video.name]
    if len(picks) < 2:
        return picks, note("choose another one to compare it with" if picks else ""), ""
    chosen = [video_named(studio.outputs, one) for one in picks]
    shown = [Shown(f"{one.prompt or one.name} · {one.setting}", one.path, studio.url(one.path)) for one in chosen]
    return picks, "", players.players(shown, 2)
