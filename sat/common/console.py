"""Console output shared by the scripts: one line for a user error, progress bars, time per workflow step."""
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from common.errors import UserError
from common.ranks import is_main_process

logger = logging.getLogger(__name__)

NOISY = ("DeepSpeed", "transformers", "httpx", "urllib3", "PIL", "imageio", "imageio_ffmpeg", "datasets", "torchao",
         "torch.utils._pytree")


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Call `main(argv)` and return the exit code: 0; 2 after a user error, reported in one line; 130 if interrupted."""
    _quiet_libraries()
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(message)s")
    try:
        main(argv)
    except UserError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    return 0


def progress(*args, disable: bool = False, **settings) -> tqdm:
    """Return a progress bar that only rank 0 shows."""
    return tqdm(*args, disable=disable or not is_main_process(), **settings)


class Clock:
    """A stopwatch that starts when it is made."""

    def __init__(self):
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._started, 3)


class Steps:
    """The named steps of a workflow, each logged when it first begins; `seconds` holds the total time of each."""

    def __init__(self, *names: str):
        self.names = names
        self.seconds: dict[str, float] = {}

    def announce(self, name: str, detail: str = "") -> None:
        logger.info("[%d/%d] %s%s", self.names.index(name) + 1, len(self.names), name, detail)

    @contextmanager
    def __call__(self, name: str, announce: bool = True) -> Iterator[Clock]:
        if announce and name not in self.seconds:
            self.announce(name)
        clock = Clock()
        try:
            yield clock
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + clock.seconds, 3)


def _quiet_libraries() -> None:
    """Hide the libraries' warnings (such as DeepSpeed's about a missing accelerator), which would bury our messages."""
    for name in NOISY:
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
