"""The second half of the search for a schedule: levels moved one by one while the runs' own error at the end falls.

Errors of single steps, which dynamic programming adds up, leave out how later steps pass them on: some grow, others
cancel. So what it found is where this pattern search (Hooke and Jeeves 1961) begins; its objective is the error itself.
"""
import math
from collections.abc import Callable, Sequence

from benchmarks.schedule_costs import HIGHEST, LOWEST

WIDTHS = (0.5, 0.25, 0.12)  # of a move, as a share of the way to the next level
Error = Callable[[Sequence[float]], float]


def moved(error_of: Error, sigmas: Sequence[float], trials: int) -> tuple[list[float], float]:
    """Return the sigmas with the least error found in at most `trials` runs from these, and that error.

    The widest moves come first; once none of them helps, narrower ones follow.
    """
    best, least, left = list(sigmas), error_of(sigmas), trials - 1
    for width in WIDTHS:
        helped = True
        while helped:
            helped = False
            for i in range(len(best)):
                for way in (-width, width):
                    tried = shifted(best, i, way)
                    if left < 1 or tried == best:
                        continue
                    error, left = error_of(tried), left - 1
                    if error < least:
                        best, least, helped = tried, error, True
    return best, least


def shifted(sigmas: Sequence[float], i: int, share: float) -> list[float]:
    """Return sigmas with level i moved by a share of the way, in log-SNR, to the next one above, or below if negative.
    """
    bounded = [HIGHEST, *sigmas, LOWEST]
    towards = bounded[i] if share > 0 else bounded[i + 2]
    if towards == sigmas[i]:
        return list(sigmas)
    level = math.exp(math.log(sigmas[i]) + abs(share) * math.log(towards / sigmas[i]))
    return [*sigmas[:i], level, *sigmas[i + 1:]]
