"""Videos made again from their records, in the batches that they were sampled in."""
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from arguments import get_args, named_records
from common.errors import ConfigError, DataError, UserError
from common.files import expanded_path
from common.listing import Remarks
from common.ranks import world_size
from common.typed import shown
from configuration.settings import Arguments
from inference.checks import check_prompts, check_run, source_of_prompts
from inference.jobs import Job, plan_jobs
from inference.made_from import Entries, run_made_from
from inference.output_folder import check_names
from inference.record_differences import told_differences
from inference.recorded import Recorded, Row, find_records
from inference.resuming import unfinished
from inference.sizes import ModelLimits
from inference.text_embeddings import check_stored

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = "outputs/remade"
CHOSEN_BY_RECORDS = ("input_file", "input_type", "num_samples", "save_text_embeddings")
ROUNDING = "latents may differ by rounding (4e-6), and the file then by its bytes"


@dataclass(frozen=True)
class Again:
    """Records of one configuration, and the arguments of the run that makes their videos again.

    `regrouped` is True if the command line asks for batches of another size than theirs.
    """

    args: Arguments
    records: Sequence[Recorded]
    regrouped: bool


@dataclass(frozen=True)
class Planned:
    """The videos to sample, some only beside the others of their batch, the one of each record, and limits of their
    model.
    """

    jobs: Sequence[Job]
    videos: Sequence[tuple[Recorded, Job]]
    limits: ModelLimits


def read_again(argv: Sequence[str] | None = None, description: str = "") -> list[Again]:
    """Return the runs that make videos again: of the records that a command line names, those of one configuration.

    The other options of the command line take precedence over the records. Without `--from-metadata` there are none.
    Raises ConfigError or DataError, which starts with the record's path.
    """
    names, output = named_records(argv, description)
    if not names:
        return []
    folder = Path.cwd() / (DEFAULT_FOLDER if output is None else expanded_path(output, "--output-dir"))
    found: dict[str, tuple[Arguments, list[Recorded]]] = {}
    for recorded in find_records(names, folder):
        with _record_named(recorded):
            args = get_args(argv, description, deepcopy(recorded.config)).changed(output_dir=str(folder))
            _check_options(args, recorded)
        found.setdefault(repr(args.composed), (args, []))[1].append(recorded)
    if len(found) > 1 and world_size() > 1:
        raise ConfigError(f"--from-metadata: the records are of {len(found)} configurations, of which torchrun can "
                          "make one in a run; name those of one, or use one process")
    return [_again(args, records) for args, records in found.values()]


def _again(args: Arguments, records: Sequence[Recorded]) -> Again:
    regrouped = "batch_size" in args.composed["args"]
    size = args.sampling.batch_size if regrouped else max(len(each.batch) for each in records)
    return Again(args.changed(batch_size=size), records, regrouped)


@contextmanager
def _record_named(recorded: Recorded) -> Iterator[None]:
    """Context manager within which user errors start with the path of a record."""
    try:
        yield
    except UserError as error:
        told = str(error)
        raise type(error)(told if str(recorded.path) in told else f"{recorded.path}: {told}") from error


def _check_options(args: Arguments, recorded: Recorded) -> None:
    """Raise ConfigError for options that say which videos to make; warn if the record's run was allowed more classes.
    """
    for key in CHOSEN_BY_RECORDS:
        if key in args.composed["args"]:
            raise ConfigError(f"args.{key} and --from-metadata exclude each other: the records say which videos are "
                              "made; leave it out")
    opened = recorded.entries.get("allow_targets")
    wanting = [one for one in opened if one not in args.allow_targets] if isinstance(opened, list) else []
    if wanting:
        logger.warning("%s: its run was allowed the classes of %s; if you trust it, give --allow-targets with them",
                       recorded.path, shown(wanting))


def plan_again(runs: Sequence[Again]) -> list[Planned]:
    """Return the videos to sample in each run, after checking all; say what differs from the records.

    Raises ConfigError, CheckpointError or DataError.
    """
    planned = [plan_videos(again) for again in runs]
    _check_folders([(recorded, job.folder) for each in planned for recorded, job in each.videos])
    return [replace(each, jobs=_to_sample(each.jobs, again)) for each, again in zip(planned, runs, strict=True)]


def plan_videos(again: Again) -> Planned:
    """Return the videos of one run, finished or not, after checking them; say what differs from the records.

    Raises ConfigError, CheckpointError or DataError.
    """
    with _record_named(again.records[0]):
        limits = check_run(again.args)
        run = run_made_from(again.args)
    remarks, jobs = Remarks("video"), []
    batches: dict[tuple[Row, ...], list[Recorded]] = {}
    for recorded in again.records:
        batches.setdefault(_sampled_with(recorded, again, remarks), []).append(recorded)
    videos: list[tuple[Recorded, Job]] = []
    for group, (rows, records) in enumerate(batches.items()):
        with _record_named(records[0]):
            planned = _jobs_of(rows, records, limits, again.args, run)
        planned = [job if again.regrouped else replace(job, group=group) for job in planned]
        jobs += planned
        for recorded in records:
            job = planned[rows.index(recorded.own)]
            videos.append((recorded, job))
            for clause in told_differences(recorded, job, again.args):
                remarks.add(clause, recorded.path)
    remarks.warn(logger)
    check_stored(jobs, again.args)
    return Planned(jobs, videos, limits)


def _jobs_of(rows: Sequence[Row], records: Sequence[Recorded], limits: ModelLimits, args: Arguments, run: Entries
             ) -> list[Job]:
    """Return the jobs of a batch; those of no record are not written."""
    where, source = str(records[0].path), source_of_prompts(args.sampling, args.model_config)
    prompts = [row.named(source, where) for row in rows]
    check_prompts(args.model_config, prompts)
    jobs = plan_jobs(prompts, limits, args.sampling, args.model_config.get("noised_image_input", False), run)
    made = []
    for row, job in zip(rows, jobs, strict=True):
        own = next((each for each in records if each.own == row), None)
        place = own.place if own is not None and own.place is not None else Path(job.prompt.folder) / str(row.sample)
        made.append(replace(job, sample=row.sample, written=own is not None,
                            folder=Path(args.sampling.output_dir) / place))
    check_names(made, args.sampling.output_dir)
    return made


def _sampled_with(recorded: Recorded, again: Again, remarks: Remarks) -> tuple[Row, ...]:
    """Return the videos to sample together: those of a record's batch, or its own alone where that is said."""
    missing = next((clause for row in recorded.batch if row != recorded.own and (clause := row.missing())), None)
    if recorded.old:
        remarks.add("with a record of an earlier version, which does not hold batch, code and machine; sampled "
                    f"alone: {ROUNDING}", recorded.path)
    if len(recorded.batch) == 1:
        return tuple(recorded.batch)
    if again.regrouped:
        remarks.add(f"first sampled in a batch of another size than args.batch_size; {ROUNDING}", recorded.path)
        return (recorded.own,)
    if missing is not None:
        remarks.add(f"sampled alone, since not all others of the batch can be; {ROUNDING}", recorded.path, missing)
        return (recorded.own,)
    remarks.add("first sampled in a batch, which is sampled whole again; others in it are not written", recorded.path)
    return tuple(recorded.batch)


def _check_folders(folders: Sequence[tuple[Recorded, Path]]) -> None:
    """Raise DataError for a video that would take the place of the record's own, or of another's."""
    taken: dict[Path, Recorded] = {}
    for recorded, folder in folders:
        if folder.resolve() == recorded.path.parent.resolve():
            raise DataError(f"{recorded.path}: its video would be written over; choose another folder (--output-dir)")
        other = taken.setdefault(folder, recorded)
        if other.own != recorded.own or other.config != recorded.config:
            raise DataError(f"{other.path} and {recorded.path} both lead to {folder}; name the folder that holds both, "
                            "or make them again one by one, each with its --output-dir")


def _to_sample(jobs: Sequence[Job], again: Again) -> list[Job]:
    """Return the jobs without the batches whose videos are all finished, if the run is resumed."""
    if not again.args.sampling.resume:
        return list(jobs)
    left = unfinished([job for job in jobs if job.written], again.args.sampling)
    if again.regrouped:
        return left
    groups, folders = {job.group for job in left}, {job.folder for job in left}
    return [replace(job, written=job.written and job.folder in folders) for job in jobs if job.group in groups]
