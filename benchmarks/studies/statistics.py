"""Statistics of judged videos: distance and spread of features, resampling, tests of pairs, and their correction."""
import math
from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
# 0.975 quantiles of Student's distribution (1908) by degrees of freedom from 1 on, after which the last is a bound.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
           2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Frechet distance between Gaussians fitted to two sets (N, F) and (M, F).

    This is the root of |m - m'|^2 + tr(C + C' - 2 (C C')^1/2) (Dowson and Landau 1982), whose square the Frechet
    inception distance reports for its features. It is in the features' units and 0 for equal sets; for two finite
    samples of one distribution it is above 0.
    """
    means = [x.mean(0) for x in (one, other)]
    covariances = [np.atleast_2d(np.cov(x.T, ddof=0)) for x in (one, other)]
    root = _root(covariances[0])
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    squared = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1]) - 2 * shared
    return math.sqrt(max(squared, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric square root of a covariance."""
    values, directions = np.linalg.eigh(covariance)
    return (directions * np.sqrt(values.clip(min=0))) @ directions.T


def spread_ratio(samples: np.ndarray, data: np.ndarray) -> float:
    """Return the deviation over repeats of (groups, repeats, F), pooled over features, relative to that of data."""
    within = [x.var(axis=1, ddof=1).mean(axis=0).sum() for x in (samples, data)]
    return float(np.sqrt(within[0] / within[1]))


def resampled(groups: int, statistic: Callable[[np.ndarray], np.ndarray | float], seed: int = 0) -> np.ndarray:
    """Return `RESAMPLES` values of a statistic of group indices drawn with replacement (bootstrap, Efron 1979)."""
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(groups, size=groups)) for _ in range(RESAMPLES)])


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval by Student's distribution, which is 0 for one value."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    factor = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    return float(np.mean(values)), float(factor * np.std(values, ddof=1) / math.sqrt(len(values)))


def around(value: float, drawn: np.ndarray) -> tuple[float, float]:
    """Return the normal 95 % interval of a value >= 0 from the deviation of its resamples, whose mean may be biased."""
    half = 1.96 * float(drawn.std(ddof=1))
    return max(value - half, 0.0), value + half


def middle(drawn: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resamples."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def mcnemar_p(one: np.ndarray, other: np.ndarray) -> float:
    """Return the two-sided exact p-value (McNemar 1947) of paired outcomes (N,), True where right."""
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def signed_rank_p(differences: np.ndarray) -> float:
    """Return the two-sided exact p-value of Wilcoxon's signed-rank test (1945) that differences (N,) centre on 0.

    Differences of 0 are left out; equal ones share the mean of their ranks, which are counted in halves.
    """
    values = differences[differences != 0]
    if not len(values):
        return 1.0
    _, place, count = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(count) - count + 1)[place]  # twice the rank
    ways = np.ones(1)  # of every sum of doubled ranks, as a share
    for rank in doubled:
        ways = np.convolve(ways, [0.5, *[0.0] * (int(rank) - 1), 0.5])
    positive = int(doubled[values > 0].sum())
    least = min(positive, int(doubled.sum()) - positive)
    return float(min(1.0, 2 * ways[:least + 1].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests (Holm 1979), in the given order."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]
