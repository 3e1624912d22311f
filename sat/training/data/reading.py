"""Reading and decoding of a data set's items ahead of their use."""
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Reader:
    """A reader with `workers` threads, which start on items when `prepare` announces them.

    With no workers, `take` reads in the caller's thread. Threads suffice, because the decoder releases Python's global
    interpreter lock, and they share the record of unreadable clips.
    """

    def __init__(self, dataset: Any, workers: int = 0):
        self.dataset = dataset
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clips") if workers else None
        self._pending: dict[int, Future] = {}

    def prepare(self, numbers: Sequence[int]) -> None:
        if self._pool is not None:
            for number in numbers:
                if number not in self._pending:
                    self._pending[number] = self._pool.submit(self.dataset.__getitem__, number)

    def take(self, numbers: Sequence[int]) -> list[dict]:
        self.prepare(numbers)
        ready = {number: future.result() for number in dict.fromkeys(numbers)
                 if (future := self._pending.pop(number, None)) is not None}
        return [ready[number] if number in ready else self.dataset[number] for number in numbers]
