"""Console output shared by the scripts: one line for an error, progress bars, time per workflow step."""
import logging
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.ranks import is_main_process

logger = logging.getLogger(__name__)

NOISY = ("DeepSpeed", "transformers", "httpx", "urllib3", "PIL", "imageio", "imageio_ffmpeg", "datasets", "torchao",
         "torch.utils._pytree")
LONGEST_LINE = 1000  # characters


class Fault(Exception):
    """An error of this program, raised from its cause; `folder` is the place for the report."""

    def __init__(self, folder: Path):
        self.folder = folder


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Call `main(argv)` and return the exit code, after one line on standard error for whatever went wrong.

    0: it ended well. 1: a fault of this program, whose traceback is in the file that the line names. 2: an error that
    the user can correct. 130: interrupted. A signal to end raises SystemExit, so that files are cleaned up.
    """
    try:
        level = logging.INFO if is_main_process() else logging.WARNING
        logging.basicConfig(stream=sys.stderr, level=level, format="%(message)s")
        with quiet_libraries(), _ended_by_signals():
            main(argv)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130
    except Exception as error:
        sys.stderr.write(f"error: {told(error)}\n")
        return 2 if message_of(error) else 1
    return 0


def told(error: Exception) -> str:
    """Return the line that tells of an error, after writing the report on one that is a fault of this program."""
    return message_of(error) or _reported(error)


def message_of(error: Exception) -> str | None:
    """Return the line that tells a user of an error; None if the error is a fault of this program."""
    if isinstance(error, UserError):
        return _short(" ".join(str(error).split()))
    if isinstance(error, MemoryError) or _lacks_memory(error):
        return " ".join(f"the memory does not suffice ({error}); --plan shows what a run takes".split())
    if isinstance(error, OSError):
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return _short(f"{error.filename}: {reason}" if error.filename else reason)
    return None


def _short(line: str) -> str:
    """Return a line without the middle of it, if it is longer than anyone reads."""
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2:]}"


def _lacks_memory(error: Exception) -> bool:
    """Return True for torch's errors of memory, on the CPU and on accelerators."""
    return isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError"
                                                or "can't allocate memory" in str(error))


@contextmanager
def faults_beside(folder: str | Path) -> Iterator[None]:
    """Context manager within which the report on a fault of this program goes to a run's folder."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Fault) or message_of(error):
            raise
        raise Fault(Path(folder)) from error


def _reported(error: Exception) -> str:
    """Write the traceback of a fault to a file; return the line that tells of it."""
    folder = error.folder if isinstance(error, Fault) else Path.cwd()
    cause = error.__cause__ if isinstance(error, Fault) and error.__cause__ else error
    what = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
    name = time.strftime("fault_%Y%m%d_%H%M%S_") + f"{time.time_ns() % 10**6:06d}.txt"
    for place in (folder, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with open(place / name, "w", encoding="utf-8", errors="backslashreplace") as report:
                report.write(f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(cause))}")
            return f"a fault of this program ({what}); please report it with {place / name}"
        except OSError:
            continue
    return f"a fault of this program ({what}); please report it"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Context manager within which SIGTERM and SIGHUP raise SystemExit instead of ending the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        if is_main_process():
            sys.stderr.write(f"\nended by {signal.Signals(number).name}\n")
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in (getattr(signal, name) for name in names)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Context manager that hides libraries' warnings, such as DeepSpeed's about a missing accelerator.

    They would bury our messages.
    """
    def of_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in NOISY]
    for library in loggers:
        library.addFilter(of_errors)
    try:
        yield
    finally:
        for library in loggers:
            library.removeFilter(of_errors)
