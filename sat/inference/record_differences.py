"""Differences between the record of a video and the run that makes it again, up to the bytes that came out."""
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.typed import shown
from configuration.settings import Arguments
from inference.circumstances import circumstances
from inference.jobs import Job
from inference.made_from import differences, made_from
from inference.recorded import Recorded
from media.records import LATENTS, VIDEO, verified_record, versions

logger = logging.getLogger(__name__)

NOT_COMPARED = {"commit", "changes", "source", "repository"}  # the code is told by its digest


def told_differences(recorded: Recorded, job: Job, args: Arguments) -> Iterator[str]:
    """Yield a clause, which follows "2 videos" on each thing in which a run differs from a record."""
    before = recorded.entries
    for clause in differences(before["made_from"], made_from(job)):
        yield f"not made from what the record says: {clause}"
    for clause in differences(_mapping(before.get("versions")), versions()):
        yield f"first made with other libraries: {clause}"
    made_with = _mapping(before.get("made_with"))
    if not made_with:
        return
    now = circumstances(args, args.run.device)
    if made_with.get("source") != now["source"]:
        yield f"first made by other code: {_code(made_with)}, now {_code(now)}"
    for clause in differences(*(_compared(one) for one in (made_with, now))):
        remedy = f"; set OMP_NUM_THREADS={shown(made_with.get('threads'))}" if clause.startswith("threads ") else ""
        yield f"first made otherwise: {clause}{remedy}"


def is_same(recorded: Recorded, folder: Path) -> bool:
    """Return True if the video in a folder is, byte for byte, the one that a record describes; log it either way."""
    record, before = verified_record(folder) or {"files": {}}, recorded.entries["files"]
    for name in (VIDEO, LATENTS):
        if name in record["files"] and name in before:
            same = record["files"][name] == before[name]
            logger.log(logging.INFO if same else logging.WARNING, "%s: %s bytes %s %s describes", folder / name,
                       "the same" if same else "other", "that" if same else "than", recorded.path)
            return same
    logger.warning("%s has nothing to compare with what %s describes: %s", folder, recorded.path, shown(list(before)))
    return False


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _compared(made_with: Mapping[str, Any]) -> dict[str, Any]:
    flat = dict(made_with) | {f"processes.{key}": count for key, count in _mapping(made_with.get("processes")).items()}
    return {key: value for key, value in flat.items() if key not in (*NOT_COMPARED, "processes")}


def _code(made_with: Mapping[str, Any]) -> str:
    commit = made_with.get("commit")
    if not isinstance(commit, str):
        return "a copy without git"
    return f"commit {commit[:12]}{' with changes' if made_with.get('changes') else ''}"
