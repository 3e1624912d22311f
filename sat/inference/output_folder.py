"""The output folder of a run: held by one run at a time, without the rests of runs that died, names that fit it."""
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError
from common.files import check_writable, sole_use
from common.listing import listed
from common.partial_files import left_by_dead
from common.ranks import is_main_process, wait_for_all
from inference.filmstrip import FILMSTRIP
from inference.jobs import Job
from media.records import LATENTS, NOISE, RECORD, VIDEO
from media.videos import SHEET

logger = logging.getLogger(__name__)

FILES = (VIDEO, SHEET, RECORD, LATENTS, NOISE, FILMSTRIP)
# A video's files are in a folder of its prompt and sample, and those of several models in a folder of each.
BELOW = ("*/", "*/*/", "*/*/*/")
ROOM = 64  # bytes that the name of a file takes while it is written


@contextmanager
def own_output(folder: str) -> Iterator[None]:
    """Context manager that keeps other runs out of an output folder, after removing what dead ones left unfinished.

    Raises DataError if the folder cannot be written, or if another run holds it.
    """
    check_writable(folder, "--output-dir")
    with sole_use(folder):
        if is_main_process():
            remove_partial_files(Path(folder))
        wait_for_all()
        yield


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files of sampling runs that no living process owns, and log their names."""
    found = [path for inner in [folder, *(inner for below in BELOW for inner in folder.glob(below))]
             for path in left_by_dead(inner, set(FILES))]
    for path in found:
        path.unlink(missing_ok=True)
    if found:
        logger.info("%d partial file(s) of a run that died are removed: %s", len(found),
                    listed(path.relative_to(folder) for path in found))


def check_names(jobs: Iterable[Job], folder: str) -> None:
    """Raise DataError if the folders of these videos have names that the output folder's file system does not take."""
    longest_name, longest_path = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    for job in jobs:
        name, path = len(os.fsencode(job.prompt.folder)), len(os.fsencode(job.folder))
        if name > longest_name or path + ROOM > longest_path:
            raise DataError(f"the folder of prompt {job.prompt.index} would have a name of {name} bytes and a path of "
                            f"{path}, where the system takes {longest_name} and {longest_path - ROOM}; choose a "
                            f"shorter output folder than {folder} (--output-dir), or shorten the prompt")
