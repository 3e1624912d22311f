"""Videos made again in memory, from their records alone."""
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogvideo.loading import check_settings, words_of
from cogvideo.pipeline import Pipeline
from cogvideo.result import Result
from common.console import quiet_libraries
from common.errors import ConfigError
from common.files import expanded_path
from common.typed import shown
from inference.checks import check_division
from inference.jobs import in_batches
from inference.recorded import record_places
from inference.remaking import Again, Planned, plan_videos, read_again
from inference.text_embeddings import prepare_text_embeddings
from media.records import RECORD

Name = str | os.PathLike


def again(record: Name | Sequence[Name], *overrides: str, progress: bool = True, **settings: Any) -> Any:
    """Make the video of a record again, as `--from-metadata` does, and return its result.

    `record` is a `metadata.json`, the video beside it, or their folder. A list of them, or a folder that has records
    in folders below, gives a list of results in that order. `overrides` (`key=value`) and `settings` are as for `load`
    and take precedence over the record, such as `device="cpu"` or `load=...` for weights that have moved. What differs
    from the record is a warning. Raises ConfigError, CheckpointError or DataError, with one line on what is wrong,
    before weights are read.
    """
    check_settings("again", settings, overrides)
    given = record if isinstance(record, list | tuple) else [record]
    names = [_path(name) for name in given]
    words = [*map(_override, overrides), *words_of(settings)]
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="cogvideo_") as folder:  # in which nothing is written
        paths = [path for name in names for path, _ in record_places(name, folder)]
        runs = read_again(["--from-metadata", *map(str, names), *words, f"args.output_dir={folder}"])
        for run in runs:
            check_division(run.args)
            prepare_text_embeddings(run.args)
        planned = [plan_videos(run) for run in runs]
    made: dict[Path, Result] = {}
    for run, videos in zip(runs, planned, strict=True):
        made |= _made(run, videos, progress)
    several = given is record or names[0].is_dir() and paths != [names[0] / RECORD]
    return [made[path] for path in paths] if several else made[paths[0]]


def _made(run: Again, planned: Planned, progress: bool) -> dict[Path, Result]:
    """Return the results of the records of one configuration, by the paths of the records."""
    with quiet_libraries():
        pipe = Pipeline.load(run.args, planned.limits)
    conditions = pipe.encode(planned.jobs, show=progress)
    results: dict[int, Result] = {}
    for batch in in_batches(planned.jobs, run.args.sampling.batch_size):
        written = [id(job) for job in batch if job.written]
        results |= dict(zip(written, pipe.make(batch, conditions, show=progress), strict=True))
    return {recorded.path: results[id(job)] for recorded, job in planned.videos}


def _path(name: Any) -> Path:
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(f"again: {shown(name)} is no record; give the path of a metadata.json, of the video beside "
                          "it, or of a folder")
    return expanded_path(str(name), "again").absolute()  # which cannot look like an option


def _override(word: str) -> str:
    if "=" not in str(word):
        raise ConfigError(f"again: {shown(word)} is no key=value; give several records as a list")
    return str(word)
