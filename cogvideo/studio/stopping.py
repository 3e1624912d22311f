"""The ending of a run by the user: an event for each page in a browser, which its button Stop sets."""
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from cogvideo.studio.studio import Studio, note

WAIT = 0.3  # seconds between two looks at a running video


class Stopped(Exception):
    """The user, or the studio's end, ends a run."""


class Stops:
    """The events that end the runs of a tab, one for each page, from the click that asks for a run to its end."""

    def __init__(self):
        self._events: dict[str, threading.Event] = {}

    def begin(self, request: gr.Request) -> str:
        """Note that a page asks for a run, which waits for others; return the message that says so."""
        self._events[str(request.session_hash)] = threading.Event()
        return note("waiting for other videos")

    @contextmanager
    def running(self, request: gr.Request) -> Iterator[threading.Event]:
        """Context manager of a page's run, whose event is set at its end, also if the browser is gone."""
        stopping = self._events.get(str(request.session_hash)) or threading.Event()
        try:
            yield stopping
        finally:
            stopping.set()

    def stop(self, request: gr.Request) -> str:
        """End a page's run, if there is one; return the message that says so."""
        stopping = self._events.get(str(request.session_hash))
        if stopping is None or stopping.is_set():
            return note("nothing runs")
        stopping.set()
        return note("stopping after this step")


def check_going(studio: Studio, stopping: threading.Event) -> None:
    """Raise Stopped if the run is to end."""
    if stopping.is_set() or studio.closing.is_set():
        raise Stopped
