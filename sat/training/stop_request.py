"""Signals to stop, noted while training so that the step under way can be finished and saved."""
import os
import signal
import threading
from signal import Signals

import torch
import torch.distributed as dist

from common.ranks import is_main_process

NAMES = ("SIGTERM", "SIGHUP", "SIGINT")


class StopRequest:
    """Context manager within which the first signal to stop is noted instead of ending the process.

    A second SIGINT (Ctrl+C) raises KeyboardInterrupt at once. A launcher may repeat SIGTERM, which changes nothing.
    """

    def __init__(self) -> None:
        self._noted: Signals | None = None
        self._before: dict = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            numbers = [getattr(Signals, name) for name in NAMES if hasattr(Signals, name)]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def of_any_rank(self) -> Signals | None:
        """Return the signal that asked any process to stop, the same on all ranks, or None; called on all ranks."""
        number = torch.tensor(self._noted or 0)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return Signals(int(number)) if number else None

    def _note(self, number: int, frame: object) -> None:
        if number == Signals.SIGINT and self._noted:
            raise KeyboardInterrupt
        if self._noted is None and is_main_process():
            again = "; Ctrl+C once more ends at once" if number == Signals.SIGINT else ""
            line = f"\n{Signals(number).name}: stopping after this step{again}\n"
            os.write(2, line.encode())  # a handler may run while sys.stderr is being written
        self._noted = self._noted or Signals(number)
