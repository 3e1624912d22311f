"""Items of a data set, read and decoded ahead of their use."""
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch.utils.data import Dataset


class Reader:
    """Reads with `workers` threads what `prepare` announced; with none, what `take` asks for, in the caller's thread.

    Threads are enough, for the decoder works outside of Python's lock, and they share what is known of broken clips.
    """

    def __init__(self, dataset: Dataset, workers: int = 0):
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
