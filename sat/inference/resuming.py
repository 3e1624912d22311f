"""Resumed runs: videos that an earlier run finished are kept, if they would be made from the same again."""
import logging
from collections.abc import Iterable
from pathlib import Path

from common.listing import listed
from configuration.settings import SamplingSettings
from inference.filmstrip import FILMSTRIP
from inference.jobs import Job
from inference.made_from import difference, made_from
from media.records import LATENTS, NOISE, RECORD, VIDEO, verified_record
from media.videos import SHEET

logger = logging.getLogger(__name__)


def unfinished(jobs: Iterable[Job], settings: SamplingSettings) -> list[Job]:
    """Return the jobs without those whose videos an earlier run finished; log which are kept, and which made again."""
    left, kept, again = [], [], []
    for job in jobs:
        name = str(job.folder.relative_to(settings.output_dir))
        reason = _reason(job, settings)
        if reason is None:
            kept.append(name)
            continue
        left.append(job)
        if (job.folder / RECORD).exists() or _output(job.folder, settings).exists():
            again.append(f"{name} ({reason})")
    if kept:
        logger.info("%d finished video(s) are kept: %s", len(kept), listed(kept))
    if again:
        logger.info("%d video(s) are made again: %s", len(again), listed(again))
    return left


def _output(folder: Path, settings: SamplingSettings) -> Path:
    return folder / (LATENTS if settings.only_save_latents else VIDEO)


def _reason(job: Job, settings: SamplingSettings) -> str | None:
    """Return the reason why a video has to be made; None if it is there, made from the same."""
    record, output = verified_record(job.folder), _output(job.folder, settings)
    if record is None or output.name not in record["files"]:
        return f"{output.name} or its record is missing, or they do not belong together"
    if output.name == VIDEO and not (job.folder / SHEET).is_file():
        return f"{SHEET} is missing"
    if settings.invert and not (job.folder / NOISE).is_file():
        return f"{NOISE} is missing"
    if output.name == VIDEO and "decoded_from" in record:
        return "it was decoded from latents by a run of its own"
    changed = difference(record.get("made_from"), made_from(job))
    if changed is None and settings.save_denoised_every is not None:
        before = ((record.get("config") or {}).get("args") or {}).get("save_denoised_every")
        if before != settings.save_denoised_every or not (job.folder / FILMSTRIP).is_file():
            return f"{FILMSTRIP} is not there for every step that was asked for"
    return changed
