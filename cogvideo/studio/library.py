"""The videos of a folder with what their records say; records and files are foreign, and may be anything."""
import base64
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from PIL import Image

from common.errors import DataError
from common.text import printable
from media.records import RECORD, VIDEO, parsed_record

logger = logging.getLogger(__name__)

THUMBNAIL = 176  # pixels, the longer side
LONGEST_TEXT = 300  # characters of an entry that is shown
HIDDEN = ("uploads",)  # folders of what users gave


@dataclass(frozen=True)
class Video:
    """A video file below the folder `root`, and what its record says; `problem` is a line on what is wrong with it.

    An entry that the record lacks is empty.
    """

    root: Path
    path: Path
    time: float
    prompt: str = ""
    model: str = ""
    sampler: str = ""
    guider: str = ""
    steps: str = ""
    seed: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        """The path below the root, by which the page names the video."""
        return printable(self.path.relative_to(self.root).as_posix())

    @property
    def setting(self) -> str:
        """What the video was made with, in one line."""
        named = {"steps": self.steps and f"{self.steps} steps", "seed": self.seed and f"seed {self.seed}"}
        return ", ".join(filter(None, (self.model, self.sampler, self.guider, *named.values())))


def videos_of(root: Path) -> list[Video]:
    """Return all videos below a folder, and records without one, the newest first; nothing outside of the folder."""
    found = []
    for path in {*root.rglob("*.mp4"), *(record.with_name(VIDEO) for record in root.rglob(RECORD))}:
        inside = path.relative_to(root).parts
        if any(part in HIDDEN or part.startswith(".") for part in inside):
            continue
        try:
            if path.resolve().is_relative_to(root):
                found.append(_found(root, path))
        except OSError:  # it went while the folder was listed
            continue
    return sorted(found, key=lambda video: (-video.time, video.name))


def video_named(root: Path, name: object) -> Video:
    """Return a video by its name. Raises DataError for a name that is not that of a video below the root."""
    try:
        path = root / str(name)
        if isinstance(name, str) and path.suffix == ".mp4" and path.is_file() and path.resolve().is_relative_to(root):
            return _found(root, root / path.resolve().relative_to(root))
    except (OSError, ValueError):
        pass
    raise DataError(f"video {str(name)[:100]!r} is not in {root.name}; look at the page again")


def record_of(root: Path, name: object) -> Mapping[str, Any]:
    """Return the record of a video by the video's name. Raises DataError for one that is missing or damaged."""
    try:
        path = (root / str(name)).with_name(RECORD).resolve()
        if isinstance(name, str) and path.is_relative_to(root) and path.is_file():
            return parsed_record(path)
    except (OSError, ValueError):
        pass
    raise DataError(f"video {str(name)[:100]!r} has no {RECORD} beside it")


def _found(root: Path, path: Path) -> Video:
    """Return a video, or the place of one whose record is there alone. Raises OSError if neither is there."""
    record = _stamp(path.with_name(RECORD))
    if path.is_file():
        return _video(root, path, path.stat().st_mtime, record)
    if record is None:
        raise FileNotFoundError(path)
    alone = _video(root, path, record[0] / 1e9, record)
    return replace(alone, problem=alone.problem or f"its {RECORD} is there, but no video")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does, None if there is no file."""
    try:
        known = path.stat()
    except OSError:
        return None
    return known.st_mtime_ns, known.st_size


@lru_cache(maxsize=20000)
def _video(root: Path, path: Path, time: float, stamp: tuple[int, int] | None) -> Video:
    """Return a video with its record, which is read once as long as `stamp` stays the same."""
    if stamp is None:
        return Video(root, path, time, problem=f"no {RECORD} beside it")
    try:
        record = parsed_record(path.with_name(RECORD))
    except DataError as error:
        return Video(root, path, time, problem=f"{RECORD} is damaged ({error})")
    sampler = _at(record, "config", "model", "sampler_config")
    guider = _at(sampler, "params", "guider_config", "target")
    wrong = "" if isinstance(record.get("prompt"), str) else f"{RECORD} has no prompt"
    described = record.get("files")
    if isinstance(described, dict) and path.name not in described:
        wrong = f"{RECORD} is that of another file"
    return Video(root, path, time, _text(record.get("prompt")), _model(_at(record, "config", "args", "load")),
                 _class_name(_at(sampler, "target")), _class_name(guider) or ("no guidance" if sampler else ""),
                 _text(_at(sampler, "params", "num_steps")), _text(record.get("seed")), wrong)


def _at(tree: object, *keys: str) -> Any:
    """Return what is at a path of keys, None if the tree has no such path."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _text(value: object) -> str:
    """Return a plain entry as one short line, "" for any other."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    return " ".join(printable(str(value)).split())[:LONGEST_TEXT]


def _class_name(target: object) -> str:
    return _text(target).rpartition(".")[2]


def _model(load: object) -> str:
    """Return the name of weights: the last two parts of their path."""
    return "/".join(Path(_text(load)).parts[-2:]) if _text(load) else ""


@lru_cache(maxsize=2000)
def thumbnail(path: Path, time: float) -> str | None:
    """Return a small picture of a video's first frame as a data address; None if it cannot be read."""
    try:
        with av.open(f"file:{path}", format="mp4") as container:
            frame = next(container.decode(video=0))
            picture = frame.to_image()
    except (av.FFmpegError, StopIteration, OSError, ValueError, IndexError, MemoryError) as error:
        logger.info("%s cannot be shown (%s)", path, " ".join(str(error).split())[:120])
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.convert("RGB").save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
