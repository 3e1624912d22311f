"""What a check found, and whether it passed; what to do if it did not."""
from collections.abc import Callable
from typing import NamedTuple

import torch


class Outcome(NamedTuple):
    """The result of a check: what it found, and in `remedy` what is wrong and what to do if it failed."""

    passed: bool
    found: str
    remedy: str = ""


Check = tuple[str, Callable[[], Outcome]]


def near(one: torch.Tensor, other: torch.Tensor, tolerance: float, remedy: str) -> Outcome:
    """Return whether two tensors agree within `tolerance`, and their largest difference as text."""
    apart = float((one - other).abs().max())
    return Outcome(apart < tolerance, f"{apart:.1e} apart", remedy)
