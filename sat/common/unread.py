"""Keys that are accepted because released files have them, though nothing reads them."""
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from common.ranks import is_main_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unread:
    """A key without effect: the reason, and the values of released files, which pass without a warning."""

    reason: str
    released: tuple = ()


def warn_unread(given: Mapping, unread: Mapping[str, Unread], where: str) -> None:
    """Log a warning for each key of `unread` to which `given` has a value that no released file has.

    A dotted key is one of a mapping inside, such as `transformer_args.vocab_size`. `where` is the place of `given`.
    """
    for key, entry in unread.items():
        *outer, last = key.split(".")
        inside = given
        for name in outer:
            inside = inside.get(name) or {}
        if last in inside and inside[last] not in entry.released and is_main_process():
            logger.warning("%s.%s: %s has no effect: %s", where, key, inside[last], entry.reason)
