"""Lists of names in messages: a count and the first few."""
import logging
from collections.abc import Iterable

from common.ranks import is_main_process

NAMES_IN_A_LIST = 3
LONGEST = 120  # characters of a name


def listed(names: Iterable, most: int = NAMES_IN_A_LIST) -> str:
    """Return the first `most` names, separated by commas, and how many more there are."""
    return _joined([text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in map(str, names)], most)


def _joined(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Remarks:
    """Remarks on files, gathered so that each kind of remark is logged once, with a count and the first names."""

    def __init__(self, noun: str):
        self._noun = noun
        self._names: dict[str, list[str]] = {}

    def add(self, remark: str, path: object, detail: str = "") -> None:
        """Note a file; `remark` follows "3 pictures", `detail` stands in parentheses behind the file's name."""
        name = str(path) if len(str(path)) <= LONGEST else f"…{str(path)[-LONGEST:]}"
        self._names.setdefault(remark, []).append(f"{name} ({detail})" if detail else name)

    def warn(self, logger: logging.Logger) -> None:
        """Log the remarks so far, on the main process alone, and forget them."""
        for remark, names in self._names.items():
            if is_main_process():
                logger.warning("%d %s%s %s: %s", len(names), self._noun, "s"[:len(names) != 1], remark,
                               _joined(names, NAMES_IN_A_LIST))
        self._names.clear()
