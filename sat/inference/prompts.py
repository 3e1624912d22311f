"""Prompts, read from a file or the terminal, and the folder names made from them."""
import logging
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError
from common.files import REPOSITORY
from common.ranks import world_size
from configuration.yaml_files import existing_path

logger = logging.getLogger(__name__)

SOURCE_MARK = "@@"
Source = Literal["image", "clip"]
NEEDED_BY = {"image": ("this model needs an image", "image.png"),
             "clip": ("a run with args.strength or args.invert needs a clip", "clip.mp4")}
NAME_CHARACTERS = 120
NAME_BYTES = 200  # file systems allow 255 bytes, which include the index in front


@dataclass(frozen=True)
class Prompt:
    """The text of a video; `index` counts prompts from 0, `image` or `clip` is the path of what it starts from."""

    index: int
    text: str
    image: str | None = None
    clip: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.index}_{clean_name(self.text)}"


def read_prompts(path: str | None, source: Source | None) -> list[Prompt]:
    """Read the prompts of a text file, one a line, as `prompt@@path/to/source` if `source` is given.

    Blank lines and those starting with `#` are skipped. The file may be a pipe, such as bash's `<(command)`, which can
    be read only once. Raises DataError if the file is missing, is not text or has no prompts, if several processes
    would share a pipe, and if a line has a source without need, or lacks one.
    """
    if path is None:
        raise DataError("args.input_file is missing; give a text file with one prompt per line (--input-file)")
    file = Path(path)
    if not file.exists() or file.is_dir():
        raise DataError(f"prompt file {path} {'is a folder' if file.is_dir() else 'does not exist'}; set "
                        "args.input_file (--input-file) to a text file")
    if file.is_fifo() and world_size() > 1:
        raise DataError(f"prompt file {path} is a pipe, which several processes cannot all read; write the prompts "
                        "into a file")
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"prompt file {path} is not text (byte {error.start} is not UTF-8); give UTF-8 text") from error
    if any("\0" in line for line in lines):
        raise DataError(f"prompt file {path} is not text (it contains zero bytes); give a UTF-8 text file")
    given = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    given = [(number, line) for number, line in given if line and not line.startswith("#")]
    if not given:
        raise DataError(f"prompt file {path} has no prompts; write one per line (# starts a comment)")
    return [parse_prompt(line, index, source, f"{path}, line {number}", file.parent)
            for index, (number, line) in enumerate(given)]


def ask_prompts(source: Source | None) -> Iterator[Prompt]:
    """Yield prompts typed at the terminal, until an empty line or the end of input."""
    form = f"prompt{SOURCE_MARK}{source}" if source else "prompt"
    index = 0
    while True:
        sys.stderr.write(f"{form} (empty line to stop): ")
        sys.stderr.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            prompt = parse_prompt(line, index, source, "input", Path.cwd())
        except DataError as error:  # a typing mistake must not end the run
            logger.warning("%s", error)
            continue
        yield prompt
        index += 1


def parse_prompt(line: str, index: int, source: Source | None, where: str, folder: Path) -> Prompt:
    """Return the prompt of a line; its source's path is relative to the current folder, `folder` or the repository.

    Raises DataError, starting with `where`, if the source is missing, not wanted or does not exist.
    """
    text, mark, path = (part.strip() for part in line.partition(SOURCE_MARK))
    if source is None:
        if mark:
            raise DataError(f"{where}: {SOURCE_MARK} names an image or a clip, but this run starts from text alone; "
                            "remove it, use an image-to-video model, or give --strength to start from a clip")
        return Prompt(index, text)
    if not (mark and text and path):
        need, example = NEEDED_BY[source]
        raise DataError(f"{where}: {need}; write prompt{SOURCE_MARK}path/to/{example}")
    found = existing_path(path, Path.cwd(), folder, REPOSITORY)
    if not Path(found).is_file():
        raise DataError(f"{where}: {source} {path} does not exist; correct the path after {SOURCE_MARK}")
    return Prompt(index, text, **{source: found})


def clean_name(text: str) -> str:
    """Return a folder name of at most 120 characters and 200 bytes: letters and digits of any script, `-`, `,`, `_`.

    Everything else becomes `_`, and no two of these follow one another.
    """
    kept = (c if c in "-," or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFC", text))
    name = "_".join(part for part in "".join(kept).split("_") if part)[:NAME_CHARACTERS]
    return name.encode()[:NAME_BYTES].decode(errors="ignore") or "untitled"
