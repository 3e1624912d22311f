"""Prompts from a file or from whoever sits at the terminal, and folder names made from them."""
import logging
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError
from common.files import REPOSITORY
from common.ranks import processes
from configuration.yaml_files import existing_path

logger = logging.getLogger(__name__)

SOURCE_MARK = "@@"
Source = Literal["image", "clip"]
NEEDED_BY = {"image": ("this model needs an image", "image.png"),
             "clip": ("a run with args.strength or args.invert needs a clip", "clip.mp4")}
NAME_CHARACTERS = 120
NAME_BYTES = 200  # file systems allow 255 bytes, and the index stands in front


@dataclass(frozen=True)
class Prompt:
    """What one video shows. `index` counts the prompts of a file from 0; `image` or `clip` is what it starts from."""

    index: int
    text: str
    image: str | None = None
    clip: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.index}_{clean_name(self.text)}"


def read_prompts(path: str | None, source: Source | None) -> list[Prompt]:
    """The prompts of a text file: one a line, `prompt@@path/to/source` with a source; blank and `#` lines are skipped.

    The file may be a pipe, such as bash's `<(command)`, which can be read only once. Raises DataError for a file that
    is missing, not text or without prompts, for a pipe that several processes would share, and for lines of the other
    kind.
    """
    if path is None:
        raise DataError("args.input_file is missing; give a text file with a prompt a line (--input-file)")
    file = Path(path)
    if not file.exists() or file.is_dir():
        raise DataError(f"prompt file {path} {'is a folder' if file.is_dir() else 'does not exist'}; set "
                        "args.input_file (--input-file) to a text file")
    if file.is_fifo() and processes() > 1:
        raise DataError(f"prompt file {path} is a pipe, which several processes cannot all read; write the prompts "
                        "into a file")
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"prompt file {path} is not text (byte {error.start} is not UTF-8); give UTF-8 text") from error
    if any("\0" in line for line in lines):
        raise DataError(f"prompt file {path} is not text (it holds zero bytes); give a UTF-8 text file")
    given = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    given = [(number, line) for number, line in given if line and not line.startswith("#")]
    if not given:
        raise DataError(f"prompt file {path} has no prompts; write one a line (# starts a comment)")
    return [parse_prompt(line, index, source, f"{path}, line {number}", file.parent)
            for index, (number, line) in enumerate(given)]


def ask_prompts(source: Source | None) -> Iterator[Prompt]:
    """Prompts typed one by one; an empty line or the end of input stops."""
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
        except DataError as error:  # a slip of the typist must not end the run
            logger.warning("%s", error)
            continue
        yield prompt
        index += 1


def parse_prompt(line: str, index: int, source: Source | None, where: str, folder: Path) -> Prompt:
    """One prompt; the path of its source is looked for from the current folder, `folder` and the repository's root."""
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
    """Letters, digits, `-` and `,` of any script; everything else becomes `_`. At most 120 characters and 200 bytes."""
    kept = (c if c in "-," or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFC", text))
    name = "_".join(part for part in "".join(kept).split("_") if part)[:NAME_CHARACTERS]
    return name.encode()[:NAME_BYTES].decode(errors="ignore") or "untitled"
