"""The clips of a folder with their captions, in any of the layouts in which people keep them.

A folder has a list (`media.clip_lists`), or captions in files: `labels/a/NAME.txt` for `videos/a/NAME.mp4`, or
`NAME.txt` beside the clip.
"""
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError
from common.listing import listed
from common.text import lines, read_text
from media.clip_lists import CAPTION_KEY, PROMPTS, VIDEOS, find_list, read_list
from media.containers import VIDEO_SUFFIXES

CaptionLines = Literal["all", "first"]
CAPTION_SUFFIX = ".txt"


@dataclass(frozen=True)
class Clip:
    """A clip's file and its caption, which is empty if there is none."""

    video: Path
    caption: str


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a folder, where their captions come from, and what is odd about them, a sentence each."""

    clips: list[Clip]
    captions_from: str
    oddities: list[str]


def read_clip_folder(folder: Path, caption_lines: CaptionLines = "all", caption_column: str | None = None
                     ) -> ClipFolder:
    """Return the clips of a folder, at any depth, sorted, or in the order of its list.

    Hidden files do not count. Raises DataError if there are no clips, and if a list or caption cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"folder of clips {folder} does not exist, or is a file; docs/training.md lists the layouts "
                        "that are read")
    files = sorted(_files(folder))
    chosen = find_list(folder)
    if chosen is None:
        return _of_caption_files(folder, files, caption_lines, caption_column)
    return _of_list(folder, chosen, files, caption_lines, caption_column)


def folded(text: str, caption_lines: CaptionLines = "all") -> str:
    """Return the caption that a text is: all of it, or its first line that is not blank, with white space folded."""
    if caption_lines == "first":
        text = next((line for line in lines(text) if line.strip()), "")
    return " ".join(text.split())


def label_path(video: Path) -> Path:
    """Return the path `…/labels/a/NAME.txt` for `…/videos/a/NAME.mp4`; without a `videos` folder, beside the clip."""
    parts = list(video.absolute().with_suffix(CAPTION_SUFFIX).parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "videos":
            parts[position] = "labels"
            break
    return Path(*parts)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden; links to folders are followed, once."""
    entered = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        entered.add(os.path.realpath(place))
        folders[:] = [name for name in sorted(folders)
                      if name[0] != "." and os.path.realpath(os.path.join(place, name)) not in entered]
        yield from (Path(place, name) for name in names if name[0] != ".")


def _raise(problem: OSError) -> None:
    raise problem  # a folder that cannot be entered would else be left out without a word


def _of_caption_files(folder: Path, files: Sequence[Path], caption_lines: CaptionLines, column: str | None
                      ) -> ClipFolder:
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise DataError(f"training data {folder} contains no clip: put clips into {folder / 'videos'}, as "
                        f"{listed(VIDEO_SUFFIXES, len(VIDEO_SUFFIXES))}{_instead(files)}")
    known = {_same_name(path.with_suffix(CAPTION_SUFFIX)): path for path in files
             if path.suffix.lower() == CAPTION_SUFFIX}
    owned = [_caption_file(video, known) for video in videos]
    texts = _captions([path for path in owned if path is not None], caption_lines)
    clips = [Clip(video, "" if path is None else texts[path])
             for video, path in zip(videos, owned, strict=True)]
    used = Counter(path for path in owned if path is not None)
    shared = [video.name for video, path in zip(videos, owned, strict=True) if path is not None and used[path] > 1]
    odd = [] if column is None else [f"{CAPTION_KEY} is {column}, which is not used: the folder has no list, and "
                                     "captions are in files"]
    odd += _sentences([
        ("clips share a caption file with another clip of the same name", shared),
        ("caption files are empty", [path.name for path in used if not texts[path]]),
        ("caption files belong to no clip", [path.name for path in known.values() if path not in used]),
        (f"files are not used, because the formats read are {', '.join(VIDEO_SUFFIXES)}",
         [path.name for path in files if path.suffix.lower() not in (*VIDEO_SUFFIXES, CAPTION_SUFFIX)]),
    ])
    return ClipFolder(clips, "caption files", odd)


def _caption_file(video: Path, known: dict[Path, Path]) -> Path | None:
    """Return the file of a clip's caption: in `labels`, which may lie outside of the folder read, or beside the clip.

    Raises DataError if both are there and differ.
    """
    places = dict.fromkeys((label_path(video), video.absolute().with_suffix(CAPTION_SUFFIX)))
    found = [known.get(_same_name(place)) or (place if place.is_file() else None) for place in places]
    there = [path for path in found if path is not None]
    if len(there) > 1 and there[0].read_bytes() != there[1].read_bytes():
        raise DataError(f"clip {video} has two captions, {there[0]} and {there[1]}; keep one of them")
    return there[0] if there else None


def _same_name(path: Path) -> Path:
    """Return a path in which equal names are equal, however a system composes their accents."""
    return Path(unicodedata.normalize("NFC", str(path.absolute())))


def _captions(paths: Sequence[Path], caption_lines: CaptionLines) -> dict[Path, str]:
    """Return the captions of files. Raises DataError, which names the first file that is no text and counts them."""
    found, refused = {}, []
    for path in dict.fromkeys(paths):
        try:
            found[path] = folded(read_text(path), caption_lines)
        except DataError as problem:
            refused.append(problem)
    if refused:
        more = f" ({len(refused)} caption files are no text)" if len(refused) > 1 else ""
        raise DataError(f"caption file {refused[0]}{more}") from refused[0]
    return found


def _of_list(folder: Path, path: Path, files: Sequence[Path], caption_lines: CaptionLines, column: str | None
             ) -> ClipFolder:
    entries = read_list(path, column)
    places = [_place(entry.file, path.parent, folder) for entry in entries]
    missing = [entry for entry, place in zip(entries, places, strict=True) if place is None]
    clips = [Clip(place, folded(entry.caption, caption_lines))
             for entry, place in zip(entries, places, strict=True) if place is not None]
    if not clips:
        first = f", the first is {missing[0].file} ({missing[0].where})" if missing else ""
        raise DataError(f"list {path} names no clip that is there{first}; write paths relative to {path.parent}")
    named = {_real(clip.video) for clip in clips}
    twice = [name for name, count in Counter(clips).items() if count > 1]
    others = [file for file in files if _real(file) not in named and file.name not in (path.name, PROMPTS)]
    odd = _sentences([
        (f"clips that {path.name} names are not there", [entry.file for entry in missing]),
        (f"lines of {path.name} are repeated", [clip.video.name for clip in twice]),
        (f"clips lie outside of {folder}", _outside(clips, folder)),
        (f"clips are not used, because {path.name} does not name them",
         [file.name for file in others if file.suffix.lower() in VIDEO_SUFFIXES]),
        (f"other files are not used, because captions are those of {path.name}",
         [file.name for file in others if file.suffix.lower() not in VIDEO_SUFFIXES]),
    ])
    return ClipFolder(clips, path.name if path.name != VIDEOS else f"{VIDEOS} and {PROMPTS}", odd)


def _place(name: str, beside: Path, folder: Path) -> Path | None:
    """Return the file that a list means: relative to the list, or below `videos`.

    Its backslashes may be slashes, and its accents composed in another way.
    """
    given = (name.strip(), name.strip().replace("\\", "/"))
    for spelling in dict.fromkeys((*given, *(unicodedata.normalize(form, given[1]) for form in ("NFC", "NFD")))):
        for base in (beside, folder, folder / "videos"):
            path = base / os.path.expanduser(spelling)
            if os.path.isfile(path):
                return path
    return None


def _outside(clips: Sequence[Clip], folder: Path) -> list[Path]:
    top = os.path.abspath(folder)
    return [clip.video for clip in clips if os.path.commonpath((top, os.path.abspath(clip.video))) != top]


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _instead(files: Sequence[Path]) -> str:
    return f"; it has {len(files)} files, {listed(file.name for file in files)}" if files else ""


def _sentences(found: Sequence[tuple[str, Sequence]]) -> list[str]:
    return [f"{len(names)} {what}: {listed(names)}" for what, names in found if names]
