"""Lists of names in messages: a count and the first few."""
import logging
from collections.abc import Iterable

from common.ranks import is_main_process

NAMES_IN_A_LIST = 3
LONGEST = 120  # characters of a name


def listed(names: Iterable, most: int = NAMES_IN_A_LIST) -> str:
    """Return the first `most` names, separated by commas, and how many more there are."""
    every = [text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in map(str, names)]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


class Remarks:
    """Remarks on files, gathered so that each kind of remark is logged once, with a count and the first names."""

    def __init__(self, noun: str):
        self._noun = noun
        self._names: dict[str, list[str]] = {}

    def add(self, remark: str, name: object) -> None:
        """Note a file; `remark` follows "3 pictures"; `name` may have details in parentheses."""
        self._names.setdefault(remark, []).append(str(name))

    def warn(self, logger: logging.Logger) -> None:
        """Log the remarks so far, on the main process alone, and forget them."""
        for remark, names in self._names.items():
            if is_main_process():
                logger.warning("%d %s%s %s: %s", len(names), self._noun, "s"[:len(names) != 1], remark, listed(names))
        self._names.clear()
