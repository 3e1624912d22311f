"""Facts about the files of clips, gathered before they are used: size, length and content.

A file's content is known by its digest. Reading all bytes takes long, so digests can be remembered in a file, for as
long as the system reports the same size and times of the clip.
"""
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.console import progress
from common.files import whole_file
from common.ranks import is_main_process, wait_for_all
from media.clips import ClipFormat, Probe, UnreadableClip, probe_clip

MANY = 200  # clips from which on a progress bar is shown


@dataclass(frozen=True)
class Facts:
    """A clip's height and width in pixels, how many `frames` are found in it, and the `digest` of its bytes, if asked.

    Of the frames, `repeated` are again the one before, as where a clip has fewer frames a second than asked. `problem`
    says why it cannot be read; the numbers are then 0.
    """

    height: int = 0
    width: int = 0
    frames: int = 0
    repeated: int = 0
    digest: str = ""
    problem: str = ""


def gather(videos: Sequence[Path], form: ClipFormat, memory: Path | None = None) -> list[Facts]:
    """Return the facts of clips, as `read_clip` finds them in this format.

    With a `memory`, a file of what earlier runs found, they have digests. The main process completes it; called on all
    ranks.
    """
    if memory is None:
        return _each(videos, lambda video: Facts(*probe_clip(str(video), form)))
    if not is_main_process():
        wait_for_all()
    known = _read(memory)
    found = _each(videos, lambda video: _remembered(video, form, known.get(str(video.absolute()))))
    if is_main_process():
        _write(memory, known, {video: facts for video, facts in zip(videos, found, strict=True) if not facts.problem},
               form)
        wait_for_all()
    return found


def copies(videos: Sequence[Path], facts: Sequence[Facts]) -> list[Path]:
    """Return the clips whose bytes are those of a clip before them; reads only files of equal size."""
    of_size = defaultdict(list)
    for video, known in dict(zip(videos, facts, strict=True)).items():
        if not known.problem:
            of_size[video.stat().st_size].append((video, known.digest))
    found = []
    for same in of_size.values():
        digests = set()
        for video, digest in same if len(same) > 1 else ():
            digest = digest or digest_of(video)
            if digest in digests:
                found.append(video)
            digests.add(digest)
    return found


def shared(clips: Mapping[Path, str], others: Mapping[Path, str]) -> list[Path]:
    """Return the clips whose bytes are those of one of `others`; both map files to their digests, empty if not known.
    """
    of_size = defaultdict(list)
    for path, digest in others.items():
        of_size[path.stat().st_size].append((path, digest))

    @cache
    def digests(size: int) -> set[str]:
        return {digest or digest_of(path) for path, digest in of_size[size]}

    def is_there(path: Path, digest: str) -> bool:
        size = path.stat().st_size
        return path in others or size in of_size and (digest or digest_of(path)) in digests(size)

    return [path for path, digest in clips.items() if is_there(path, digest)]


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _each(videos: Sequence[Path], find: Callable[[Path], Facts]) -> list[Facts]:
    def facts(video: Path) -> Facts:
        try:
            found = find(video)
            return found if found.frames else Facts(problem="it has no frames")
        except UnreadableClip as problem:
            return Facts(problem=str(problem))
        except OSError as problem:
            return Facts(problem=problem.strerror or str(problem))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="facts") as pool:
        return list(progress(pool.map(facts, videos), "clips", total=len(videos), disable=len(videos) < MANY))


def _remembered(video: Path, form: ClipFormat, entry) -> Facts:
    """Return the facts that an entry of the memory holds, if the file is still the same, or find them anew."""
    if not isinstance(entry, Mapping) or entry.get("stamp") != _stamp(video):
        entry = {}
    known = entry.get(_name(form))
    if not isinstance(known, list) or len(known) != len(Probe._fields):  # such as of an earlier version
        known = probe_clip(str(video), form)
    height, width, frames, repeated = known
    return Facts(height, width, frames, repeated, entry.get("digest") or digest_of(video))


def _write(memory: Path, known: dict, found: Mapping[Path, Facts], form: ClipFormat) -> None:
    new = {}
    for video, facts in found.items():
        before, stamp = known.get(str(video.absolute()), {}), _stamp(video)
        if before.get("stamp") != stamp:
            before = {}
        new[str(video.absolute())] = before | {
            "stamp": stamp, "digest": facts.digest,
            _name(form): [facts.height, facts.width, facts.frames, facts.repeated]}
    if any(known.get(name) != entry for name, entry in new.items()):
        with whole_file(memory) as unfinished:
            unfinished.write_text(json.dumps(known | new), encoding="utf-8")


def _stamp(video: Path) -> list[int]:
    """Return what changes whenever a file does: its size, and its times, of which a user cannot set the last."""
    status = video.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _name(form: ClipFormat) -> str:
    return f"{form.max_num_frames} frames at {form.fps} fps, {form.skip_frms_num} skipped"


def _read(memory: Path) -> dict:
    """Return what is remembered: nothing, if the file is missing or damaged, as everything can be found anew."""
    try:
        known = json.loads(memory.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
