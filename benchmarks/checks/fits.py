"""Orders of convergence from errors with doubled numbers of steps, by their expansion in powers of the step.

The error of n steps is a / n^p + b / n^(p + 1) + c / n^(p + 2) and so on, as a vector. Where the a of a method is
small, a fit of log error over log steps finds the order of b or c for as many steps as one can afford. So the two
powers after the declared one are eliminated first, each from two numbers of steps (Richardson). What is left falls with
the order p, or with a lower one, if there is a term of it.
"""
import math
from collections.abc import Sequence
from itertools import pairwise

import torch

ROUNDING = 1e-11  # errors below it are not of the method
SMOOTH = 0.25  # orders of consecutive numbers of steps agree within it where the expansion holds


def eliminated(errors: Sequence[torch.Tensor], power: float) -> list[torch.Tensor]:
    """Return errors with doubled numbers of steps without their term of a power, one fewer."""
    return [(2**power * fine - coarse) / (2**power - 1) for coarse, fine in pairwise(errors)]


def local_orders(errors: Sequence[torch.Tensor]) -> list[float]:
    """Return the orders between consecutive numbers of steps, each twice the one before."""
    sizes = [float(error.norm()) for error in errors]
    return [math.log2(coarse / fine) if fine > 0 and coarse > 0 else math.inf for coarse, fine in pairwise(sizes)]


def order_of(errors: Sequence[torch.Tensor], declared: float | None) -> float:
    """Return the order with which errors with doubled numbers of steps fall.

    Without a declared order, or where the expansion does not hold, it is that of the last two errors; so it is where
    the errors fall faster than declared.
    """
    above = [error for error in errors if float(error.norm()) > ROUNDING]
    plain = local_orders(above)
    if not plain:
        return math.inf
    if declared is None:
        return plain[-1]
    rest = local_orders(eliminated(eliminated(above, declared + 1), declared + 2))
    smooth = len(rest) >= 2 and abs(rest[-1] - rest[-2]) < SMOOTH
    return rest[-1] if smooth and rest[-1] < declared + 0.5 else plain[-1]


def limit_of(errors: Sequence[torch.Tensor], declared: float) -> tuple[float, float]:
    """Return the norm of what the errors tend to with infinitely many steps, and how sure it is."""
    limits = eliminated(eliminated(errors, declared), declared + 1)
    return float(limits[-1].norm()), float((limits[-1] - limits[-2]).norm())
