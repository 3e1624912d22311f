"""Prompts from a file or from whoever sits at the terminal, and folder names made from them."""
import logging
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config_files import existing_path
from errors import DataError
from files import REPOSITORY

logger = logging.getLogger(__name__)

IMAGE_MARK = "@@"
NAME_CHARACTERS = 120
NAME_BYTES = 200  # file systems allow 255 bytes, and the index stands in front


@dataclass(frozen=True)
class Prompt:
    """What one video shows. `index` counts the prompts of a file from 0; `image` is None for text-to-video."""

    index: int
    text: str
    image: str | None = None

    @property
    def folder(self) -> str:
        return f"{self.index}_{clean_name(self.text)}"


def read_prompts(path: str | None, with_images: bool) -> list[Prompt]:
    """The prompts of a text file: one a line, `prompt@@path/to/image` with images; blank and `#` lines are skipped.

    Raises DataError for a file that is missing, not text or without prompts, and for lines of the other kind.
    """
    if path is None:
        raise DataError("args.input_file is missing; give a text file with a prompt a line (--input-file)")
    if not Path(path).is_file():
        raise DataError(f"prompt file {path} does not exist; set args.input_file (--input-file) to a text file")
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"prompt file {path} is not text (byte {error.start} is not UTF-8); give UTF-8 text") from error
    if any("\0" in line for line in lines):
        raise DataError(f"prompt file {path} is not text (it holds zero bytes); give a UTF-8 text file")
    given = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    given = [(number, line) for number, line in given if line and not line.startswith("#")]
    if not given:
        raise DataError(f"prompt file {path} has no prompts; write one a line (# starts a comment)")
    return [parse_prompt(line, index, with_images, f"{path}, line {number}", Path(path).parent)
            for index, (number, line) in enumerate(given)]


def ask_prompts(with_images: bool) -> Iterator[Prompt]:
    """Prompts typed one by one; an empty line or the end of input stops."""
    form = f"prompt{IMAGE_MARK}image" if with_images else "prompt"
    index = 0
    while True:
        sys.stderr.write(f"{form} (empty line to stop): ")
        sys.stderr.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        try:
            prompt = parse_prompt(line, index, with_images, "input", Path.cwd())
        except DataError as error:  # a slip of the typist must not end the run
            logger.warning("%s", error)
            continue
        yield prompt
        index += 1


def parse_prompt(line: str, index: int, with_images: bool, where: str, folder: Path) -> Prompt:
    """One prompt; an image path is looked for from the current folder, `folder` and the repository's root."""
    text, mark, image = (part.strip() for part in line.partition(IMAGE_MARK))
    if with_images and not (mark and text and image):
        raise DataError(f"{where}: this model needs an image; write prompt{IMAGE_MARK}path/to/image.png")
    if not with_images and mark:
        raise DataError(f"{where}: {IMAGE_MARK} names an image, but this model makes videos from text alone; "
                        "remove it, or use an image-to-video configuration")
    if not with_images:
        return Prompt(index, text)
    found = existing_path(image, Path.cwd(), folder, REPOSITORY)
    if not Path(found).is_file():
        raise DataError(f"{where}: image {image} does not exist; correct the path after {IMAGE_MARK}")
    return Prompt(index, text, found)


def clean_name(text: str) -> str:
    """Letters, digits, `-` and `,` of any script; everything else becomes `_`. At most 120 characters and 200 bytes."""
    kept = (c if c in "-," or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFC", text))
    name = "_".join(part for part in "".join(kept).split("_") if part)[:NAME_CHARACTERS]
    return name.encode()[:NAME_BYTES].decode(errors="ignore") or "untitled"
