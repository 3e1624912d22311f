"""The page: its tabs, each filled by a module of its own, and its look."""
from pathlib import Path

import gradio as gr

from cogvideo.studio import compare, gallery, make, studies
from cogvideo.studio.studio import Studio

STYLE = Path(__file__).with_name("style.css")
# tab -> what fills it, called within the tab; it may return a listener for when the tab is opened
PAGES = {"Make": make.build, "Compare": compare.build, "Gallery": gallery.build, "Studies": studies.build}


def page(studio: Studio) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="Video studio", analytics_enabled=False, fill_width=True) as blocks:
        for name, build in PAGES.items():
            with gr.Tab(name, id=name.lower()) as tab:
                listener = build(studio)
            if listener is not None:
                tab.select(*listener, show_progress="hidden")
    return blocks


def theme() -> gr.themes.Base:
    """Return the look of Gradio's parts, with the fonts that the system has."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
