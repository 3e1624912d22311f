"""PEFT's patterns: settings of single layers, by regular expressions that match the end of a layer's name."""
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from common.errors import CheckpointError
from common.listing import listed
from weights.diffusers_layout import diffusers_names

T = TypeVar("T")
BEFORE = ("", "transformer.", "base_model.model.")  # what a pattern may have before a layer's name
# A foreign expression must not take forever: few repetitions, none of a group, none too long.
MOST_REPETITIONS, LONGEST = 3, 300


def check_patterns(patterns: Iterable[str], source) -> None:
    """Raise CheckpointError for a pattern that is no regular expression, or one that could take forever."""
    for pattern in patterns:
        costly = len(re.findall(r"[*+{]", pattern)) > MOST_REPETITIONS or re.search(r"\)[*+{]", pattern)
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            costly = True
        if costly or len(pattern) > LONGEST:
            raise CheckpointError(f"LoRA {source}: the pattern {pattern[:60]!r} is not understood; write the names of "
                                  "the layers out")


def of_layer(patterns: Mapping[str, T] | None, names: Iterable[str], otherwise: T) -> T:
    """Return the value of the first pattern that fits one of a layer's names, as PEFT looks it up."""
    names = list(names)
    return next((value for pattern, value in (patterns or {}).items() if _fits(pattern, names)), otherwise)


def unused(patterns: Iterable[str], layers: Iterable[tuple[str, int | None]]) -> str:
    """Return a list of the patterns that fit none of the layers; "" if all do."""
    names = [name for layer in layers for name in names_of(*layer)]
    return listed(pattern[:60] for pattern in patterns if not _fits(pattern, names))


def names_of(layer: str, part: int | None) -> list[str]:
    """Return the names by which a pattern can find a layer of the release, or a part of it, a layer of diffusers."""
    name = layer if part is None else (diffusers_names(layer) or ())[part]
    return [before + name for before in BEFORE]


def _fits(pattern: str, names: Iterable[str]) -> bool:
    expression = re.compile(rf"(.*\.)?({pattern})$")
    return any(expression.match(name) for name in names)
