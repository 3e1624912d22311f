"""A suite of VBench: what is sampled from, the names of its videos, and what is judged for temporal flickering."""
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import DataError
from common.text import decoded, lines
from inference.prompts import Prompt

logger = logging.getLogger("vbench")

FLICKERING = "temporal_flickering"
FLICKER = "flickering"  # the group of its prompts; the others are `standard`
LONGEST_NAME = 255  # bytes of a file's name
ENDING = "-00.mp4"


@dataclass(frozen=True)
class Entry:
    """A prompt of the suite: `prompt` is sampled from, `name` is the original prompt, after which videos are named."""

    prompt: str
    name: str
    flickering: bool


@dataclass(frozen=True)
class Suite:
    """The entries of a suite, in the order of its files."""

    entries: tuple[Entry, ...]

    def group(self, name: str) -> list[Entry]:
        """Return the entries of one of the groups, `standard` or `flickering`."""
        return [entry for entry in self.entries if entry.flickering == (name == FLICKER)]

    def prompts(self, name: str) -> list[Prompt]:
        """Return what is sampled from for the entries of a group, counted in the order of the suite's files."""
        return [Prompt(i, entry.prompt) for i, entry in enumerate(self.entries)
                if entry.flickering == (name == FLICKER)]


def read_suite(prompts: Path, names: Path, flickering: Path | None) -> Suite:
    """Return the suite of a file of prompts and one of names.

    An entry that stands there again, with the same prompt, counts once, with a warning. Raises DataError for a file
    that is missing or unreadable, for files of different length, for a name that no file can have, and for a name with
    two prompts.
    """
    sampled, named = _read(prompts), _read(names)
    if len(sampled) != len(named):
        raise DataError(f"{prompts} has {len(sampled)} prompts and {names} {len(named)}; they must be in the same "
                        "order, one a line")
    judged = {text for text, dimensions in named if FLICKERING in dimensions}
    if flickering is not None:
        given = {text.strip() for text, _ in _read(flickering)}
        if unknown := sorted(given - {text.strip() for text, _ in named}):
            raise DataError(f"{flickering}: {len(unknown)} of its prompts are not in {names}, the first is "
                            f"{unknown[0]!r}")
        judged |= {text for text, _ in named if text.strip() in given}
    found: dict[str, Entry] = {}
    for number, ((prompt, _), (name, _)) in enumerate(zip(sampled, named, strict=True), 1):
        _check(name, f"prompt {number}")
        entry = Entry(prompt.strip(), name, name in judged)
        if found.setdefault(name, entry) != entry:
            raise DataError(f"prompt {number}: {name!r} stands in {names} twice, with different prompts; a video can "
                            "have only one of them")
    if len(found) < len(named):
        logger.warning("%d prompts stand in %s again: each is sampled once", len(named) - len(found), names)
    return Suite(tuple(found.values()))


def _check(name: str, where: str) -> None:
    """Raise DataError for a name that no file can have."""
    if "/" in name or "\0" in name or name.startswith("."):
        raise DataError(f"{where}: {name!r} cannot be the name of a file, by which VBench would find its video; leave "
                        "it out")
    if len(name.encode()) + len(ENDING) > LONGEST_NAME:
        raise DataError(f"{where}: its name {name[:40]!r}… has {len(name.encode())} bytes, and with {ENDING} no file's "
                        f"name may have more than {LONGEST_NAME}; name videos by the original prompts (--names)")


def _read(path: Path) -> list[tuple[str, Sequence[str]]]:
    """Return the prompts of a file, each with the dimensions that it is for, if the file says so."""
    try:
        text = decoded(path.read_bytes(), f"file {path}")
    except OSError as error:
        raise DataError(f"file {path} cannot be read ({error.strerror})") from error
    if path.suffix == ".json":
        return _of_json(path, text)
    found = [(line.strip(), ()) for line in lines(text) if line.strip()]
    if not found:
        raise DataError(f"file {path} has no prompts; write one a line")
    return found


def _of_json(path: Path, text: str) -> list[tuple[str, Sequence[str]]]:
    """Return the prompts as they stand there: vbench looks for videos by them, with any space around them."""
    try:
        found = [(entry["prompt_en"], tuple(entry["dimension"])) for entry in json.loads(text)]
        filled = all(prompt.strip() for prompt, _ in found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not like VBench_full_info.json, a list of prompt_en and dimension ({error})"
                        ) from error
    if not found or not filled:
        raise DataError(f"{path} has no prompts, or an empty one")
    return found
