"""The warnings of a run, which the page shows below its message as the command line shows them on the terminal."""
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

MOST = 20  # warnings that are shown


class Warned:
    """The warnings of a run, each once, in the order in which they came."""

    def __init__(self):
        self.lines: list[str] = []

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Context manager within which what this thread warns of is kept."""
        handler = _Kept(self.lines)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)

    def html(self) -> str:
        """Return the HTML of the warnings, empty without any."""
        further = len(self.lines) - MOST
        shown = self.lines[:MOST] + ([f"and {further} more, on the studio's terminal"] if further > 0 else [])
        return "".join(f'<div class="warned">{escape(line)}</div>' for line in shown)


class _Kept(logging.Handler):
    """Handler that keeps the warnings of the thread in which it was made."""

    def __init__(self, lines: list[str]):
        super().__init__(logging.WARNING)
        self._lines, self._thread = lines, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = " ".join(record.getMessage().split())
        except Exception:  # a library's message that does not fit its values ends no run, as in other handlers
            return self.handleError(record)
        if record.thread == self._thread and line not in self._lines:
            self._lines.append(line)
