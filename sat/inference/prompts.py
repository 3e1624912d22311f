"""Prompts, read from a file or the terminal, and the folder names made from them."""
import codecs
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError
from common.files import REPOSITORY
from common.first_bytes import HEAD, named
from common.ranks import world_size
from common.text import decoded, lines
from configuration.yaml_files import existing_path

logger = logging.getLogger(__name__)

SOURCE_MARK = "@@"
Source = Literal["image", "clip", "image or clip", "clip if any", "control", "control if any"]
NEEDED_BY = {"image": ("this model needs an image", "image.png"),
             "clip": ("a run with args.strength, args.invert or args.continue_from needs a clip", "clip.mp4"),
             "image or clip": ("this model needs an image, or a clip to continue", "image.png"),
             "clip if any": ("a path is missing", "clip.mp4"),
             "control": ("this model needs a control clip", "control.mp4"),
             "control if any": ("a path is missing", "control.mp4")}
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}  # opening mark: closing mark
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SHOWN_OF_NO_TEXT = 40  # characters of a typed line that is left out
LONGEST_SHOWN = 200  # characters of a path that does not exist
NAME_CHARACTERS = 120
NAME_BYTES = 200  # file systems allow 255 bytes, which include the index in front


@dataclass(frozen=True)
class Prompt:
    """The text of a video; `index` counts prompts from 0, `image` or `clip` is the path of what it starts from.

    `last` is the path of the picture that the video ends with, beside an `image`, `control` that of the clip that the
    video follows. `negative` is its own negative prompt; None: that of the run.
    """

    index: int
    text: str
    image: str | None = None
    clip: str | None = None
    last: str | None = None
    control: str | None = None
    negative: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.index}_{clean_name(self.text)}"


def read_prompts(path: str | None, source: Source | None) -> list[Prompt]:
    """Read the prompts of a text file, one a line, as `prompt@@path/to/source` if `source` is given.

    Of an image or a clip, the file's first bytes tell which it is.
    With `prompt@@first.png@@last.png` a video also ends with a picture. Blank lines and those starting with `#` are
    skipped. The file may be a pipe, such as bash's `<(command)`, which can be read only once. Raises DataError if the
    file is missing, is not text or has no prompts, if several processes would share a pipe, and if a line has a source
    without need, or lacks one.
    """
    if path is None:
        raise DataError("args.input_file is missing; give a text file with one prompt per line (--input-file)")
    _check_file(path)
    content = lines(decoded(Path(path).read_bytes(), f"prompt file {path}"))
    given = [(number, line.strip()) for number, line in enumerate(content, 1)]
    given = [(number, line) for number, line in given if line and not line.startswith("#")]
    if not given:
        raise DataError(f"prompt file {path} has no prompts; write one per line (# starts a comment)")
    return [parse_prompt(line, index, source, f"{path}, line {number}", Path(path).parent)
            for index, (number, line) in enumerate(given)]


def _check_file(path: str) -> None:
    if os.path.isdir(path):
        raise DataError(f"prompt file {path} is a folder; set args.input_file (--input-file) to a text file")
    if not os.path.exists(path):
        written = "; a prompt itself goes into a file, or is typed with --input-type cli" if " " in path else ""
        raise DataError(f"prompt file {path[:LONGEST_SHOWN]} does not exist; set args.input_file "
                        f"(--input-file) to a text file{written}")
    if Path(path).is_fifo() and world_size() > 1:
        raise DataError(f"prompt file {path} is a pipe, which several processes cannot all read; write the prompts "
                        "into a file")


def ask_prompts(source: Source | None) -> Iterator[Prompt]:
    """Yield prompts typed at the terminal, until an empty line or the end of input.

    Lines starting with `#` are skipped. A line that is not text, or whose source is wrong, is reported and does not end
    the run.
    """
    index = 0
    for line in _typed(f"prompt{SOURCE_MARK}{source}" if source else "prompt"):
        if not line.strip():
            return
        if line.strip().startswith("#"):
            continue
        try:
            prompt = parse_prompt(line, index, source, "input", Path.cwd())
        except DataError as error:
            logger.warning("%s", error)
            continue
        yield prompt
        index += 1


def _typed(form: str) -> Iterator[str]:
    """Yield the lines of the keyboard, and an empty one at its end; reports those that are not text.

    Raises DataError if standard input is closed.
    """
    if sys.stdin is None:
        raise DataError("prompts cannot be typed, since standard input is closed; give a file (--input-file)")
    while True:
        sys.stderr.write(f"{form} (empty line to stop): ")
        sys.stderr.flush()
        content = sys.stdin.buffer.readline()
        if content.startswith(UTF_16):  # nobody types this: it is a pipe, whose bytes do not divide at every newline
            content += sys.stdin.buffer.read()
        try:
            yield from lines(decoded(content, "input")) or [""]
        except DataError:
            shown = content.decode(errors="replace").strip()[:SHOWN_OF_NO_TEXT]
            logger.warning("input %r is not UTF-8 text and is left out; set the terminal to UTF-8", shown)


def parse_prompt(line: str, index: int, source: Source | None, where: str, folder: Path) -> Prompt:
    """Return the prompt of a line; its source's path is relative to the current folder, `folder` or the repository.

    Raises DataError, starting with `where`, if the source is missing, not wanted or does not exist.
    """
    text, mark, path = (part.strip() for part in line.partition(SOURCE_MARK))
    if source is None or source.endswith(" if any") and not mark:
        if mark:
            raise DataError(f"{where}: {SOURCE_MARK} names an image or a clip, but this run starts from text alone; "
                            "remove it, use an image-to-video model, or give --strength or --continue-from "
                            "to start from a clip")
        return Prompt(index, text)
    need, example = NEEDED_BY[source]
    if not path.strip("".join({*QUOTES, *QUOTES.values()})):
        raise DataError(f"{where}: {need}; write prompt{SOURCE_MARK}path/to/{example}")
    if not text:
        raise DataError(f"{where}: the text before {SOURCE_MARK} is missing; write prompt{SOURCE_MARK}path/to/"
                        f"{example}")
    if (found := _found(path, folder)) is not None:  # also a file whose name has the mark
        return Prompt(index, text, **{_kind(found, source): found})
    first, *more = (part.strip() for part in path.split(SOURCE_MARK))
    one, takes_last = source.removesuffix(" if any"), "image" in source
    if len(more) > takes_last:
        role = "follows" if one == "control" else "starts from"
        raise DataError(f"{where}: {SOURCE_MARK} stands there {len(more) + 1} times; a prompt {role} one {_named(one)}"
                        f"{' and may end with another' if takes_last else ''}")
    found = _existing(first, one, where, folder)
    kind = _kind(found, source)
    if more and kind == "clip":
        raise DataError(f"{where}: a video that continues a clip cannot end with a picture; leave {more[0]} out")
    return Prompt(index, text, **{kind: found}, last=_existing(more[0], kind, where, folder) if more else None)


def _kind(path: str, source: Source) -> str:
    """Return "image", "clip" or "control"; a file that may be an image or a clip is known by its first bytes."""
    if source != "image or clip":
        return source.removesuffix(" if any")
    with open(path, "rb") as file:
        return "image" if named(file.read(HEAD)).name.startswith("a picture") else "clip"


def _existing(path: str, source: str, where: str, folder: Path) -> str:
    if not path:
        raise DataError(f"{where}: a path after {SOURCE_MARK} is missing; name a file, or leave the mark out")
    found = _found(path, folder)
    if found is None:
        raise DataError(f"{where}: {_why_missing(path, source, folder)}")
    return found


def _found(path: str, folder: Path) -> str | None:
    return next(filter(os.path.isfile, _spellings(path, folder)), None)


def _spellings(path: str, folder: Path) -> Iterator[str]:
    """Yield where the file of a line may be: as written, without quotation marks, with slashes for backslashes."""
    unquoted = path[1:-1].strip() if path[0] in QUOTES and path[-1] == QUOTES[path[0]] else path
    for spelling in dict.fromkeys((path, unquoted, unquoted.replace("\\", "/"))):
        yield existing_path(spelling, Path.cwd(), folder, REPOSITORY)


def _why_missing(path: str, source: str, folder: Path) -> str:
    if any(map(os.path.isdir, _spellings(path, folder))):
        return f"{_named(source)} {path} is a folder; name a file after {SOURCE_MARK}"
    return f"{_named(source)} {path[:LONGEST_SHOWN]} does not exist; correct the path after {SOURCE_MARK}"


def _named(source: str) -> str:
    return "control clip" if source == "control" else source


def clean_name(text: str) -> str:
    """Return a folder name of at most 120 characters and 200 bytes: letters and digits of any script, `-`, `,`, `_`.

    Everything else becomes `_`, and no two of these follow one another.
    """
    kept = (c if c in "-," or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFC", text))
    name = "_".join(part for part in "".join(kept).split("_") if part)[:NAME_CHARACTERS]
    return name.encode()[:NAME_BYTES].decode(errors="ignore") or "untitled"
