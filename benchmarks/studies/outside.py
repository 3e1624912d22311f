"""Faults of classes outside this project, such as a sampler or problem of one's own, as errors that their author can
correct."""
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.studies.modules import LIBRARIES
from common.errors import ConfigError, UserError
from common.files import REPOSITORY


@contextmanager
def faults_outside(what: str) -> Iterator[None]:
    """Raise a ConfigError, which names `what` and the line, in place of an exception that began in a file that is
    neither this project's nor a library's; any other exception stays as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(Path(frame.filename))]
        if not frames:
            raise
        raise ConfigError(f"{what}: {type(error).__name__}: {error}; raised in {frames[-1].name}, "
                          f"{frames[-1].filename} line {frames[-1].lineno}") from error


def _is_outside(path: Path) -> bool:
    return not any(path.is_relative_to(folder) for folder in (REPOSITORY, *LIBRARIES))
