"""Turns: calls of one pipeline, which follow each other whatever threads they come from."""
import threading
from typing import Any


class Turns:
    """A lock that the calls of a pipeline hold; a call inside another of the same thread, as in a callback, may pass.
    """

    def __init__(self):
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        self._lock.release()
