"""Checks that the parameters which a class adds to those of its base have an effect."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from benchmarks.checks.outcome import Check, Outcome
from common.errors import ConfigError

Solve = Callable[[dict], torch.Tensor]  # a run with these parameters in place of the configured ones


def checks_of_parameters(part: Any, base: type, solves: Sequence[Solve], checked: Sequence[str] = ()
                         ) -> Iterator[Check]:
    """Yield a check for each number or switch that the class of `part` adds to `base` and that is not `checked`.

    Each of `solves` makes a run in its own circumstances; a parameter has to change one of them.
    """
    given = {one.name for one in fields(base)} | set(checked)
    for one in fields(part) if is_dataclass(part) else ():
        if one.init and one.name not in given and (others := list(_others(getattr(part, one.name)))):
            yield f"{one.name} changes the result", lambda name=one.name, others=others: has_effect(
                name, others, solves)


def has_effect(name: str, others: Sequence[Any], solves: Sequence[Solve]) -> Outcome:
    """Check that one of the other values of a parameter changes a run."""
    tried = []
    for solve in solves:
        plain = solve({})
        for value in others:
            try:
                found = solve({name: value})
            except ConfigError:  # a value that it may not have
                continue
            tried.append(value)
            if not torch.equal(found, plain):
                return Outcome(True, f"with {value:g}")
    shown = ", ".join(f"{value:g}" for value in dict.fromkeys(tried))
    return Outcome(not tried, f"not with {shown}" if tried else "it may have no other value",
                   f"{name} is not used: no value of it that was tried changes a run of 12 steps")


def _others(value: Any) -> Iterator[Any]:
    """Yield other values that a parameter with this one might have; none unless it is a number, a switch or None."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, (1 + value) / 2, 2 * value, value + 0.1)
    elif value is None:
        yield from (1, 0.1)
