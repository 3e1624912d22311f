"""Marks of training clips, by which a resumed run knows whether it is given the clips that it was stopped with."""
import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

Facts = Literal["content", "file"]  # what a mark is of: the clip's bytes or frames, or its file's name and size
_DIGITS = 16  # of a digest, enough to tell millions of clips apart


class Marked(Protocol):
    """A bucket of training clips and their marks."""

    def __len__(self) -> int: ...

    @property
    def marks(self) -> Sequence[str]: ...


def mark(name: str, of: Facts, *facts: object) -> str:
    """Return the mark of a clip: a digest of the `facts` that must not change, and its name for messages."""
    content = "\0".join(map(str, facts)).encode("utf-8", errors="surrogateescape")
    return f"{of} {hashlib.sha256(content).hexdigest()[:_DIGITS]} {name}"


def changed(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return the names of the clips whose facts are others than at the same place `before`.

    Facts of two kinds are not compared: a run with a cache and one without know other facts of their clips.
    """
    pairs = [(old.split(" ", 2), new.split(" ", 2)) for old, new in zip(before, now, strict=False)]
    return [name for (known, old, _), (of, new, name) in pairs if known == of and old != new]
