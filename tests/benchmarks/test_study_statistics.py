"""Tests of the statistics of studies against closed forms."""
import numpy as np
import pytest

from benchmarks.studies.statistics import (
    around,
    frechet_distance,
    holm,
    mcnemar_p,
    mean_and_interval,
    middle,
    resampled,
    signed_rank_p,
    spread_ratio,
)


def with_moments(mean, covariance, seed):
    """Return samples (64, F) with exactly this mean and covariance."""
    draws = np.random.default_rng(seed).normal(size=(64, len(mean)))
    draws = draws - draws.mean(0)
    whitened = draws @ np.linalg.inv(np.linalg.cholesky(np.cov(draws.T, ddof=0))).T
    return whitened @ np.linalg.cholesky(np.asarray(covariance, float)).T + mean


def test_frechet_distance_of_equal_sets_is_0_and_of_a_shift_its_length():
    one = with_moments([1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]], 0)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, one + [3.0, 4.0]) == pytest.approx(5.0)


def test_frechet_distance_of_gaussians_that_commute_is_that_of_their_deviations():
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    one = with_moments([0.0, 0.0], turn @ np.diag([4.0, 1.0]) @ turn.T, 0)
    other = with_moments([0.0, 1.0], turn @ np.diag([1.0, 9.0]) @ turn.T, 1)
    assert frechet_distance(one, other) == pytest.approx(np.sqrt(1 + (2 - 1) ** 2 + (3 - 1) ** 2))


def test_frechet_distance_takes_features_that_do_not_vary():
    one = np.zeros((8, 2))
    assert frechet_distance(one, one + [0.0, 2.0]) == pytest.approx(2.0)


def test_spread_is_relative_to_the_data_within_groups():
    data = np.random.default_rng(0).normal(size=(5, 4, 3)) + np.arange(5)[:, None, None] * 100
    assert spread_ratio(data, data) == pytest.approx(1)
    halved = data.mean(1, keepdims=True) + (data - data.mean(1, keepdims=True)) / 2
    assert spread_ratio(halved, data) == pytest.approx(0.5)


def test_the_interval_of_few_values_is_students():
    assert mean_and_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / 3**0.5), rel=1e-3)
    assert mean_and_interval([1.0, 2.0]) == pytest.approx((1.5, 12.706 * 0.5), rel=1e-3)
    assert mean_and_interval([5.0]) == (5.0, 0.0)
    rng = np.random.default_rng(0)
    held = [abs(mean) <= half for mean, half in (mean_and_interval(rng.normal(size=3)) for _ in range(4000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01), "the mean of normal draws lies in it as often as it says"


def test_mcnemar_is_the_binomial_tail():
    one, other = np.array([True] * 6 + [False]), np.array([False] * 6 + [True])
    assert mcnemar_p(one, other) == pytest.approx(2 * (1 + 7) / 2**7)
    assert mcnemar_p(one, one) == 1.0


def test_signed_ranks_are_counted_exactly():
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.array([-1.0, 2.0, 3.0, 4.0, 5.0, 0.0])) == pytest.approx(2 * 2 / 2**5)  # 0 is left out
    assert signed_rank_p(np.array([1.0, 1.0, -1.0])) == pytest.approx(1.0)  # ties share ranks
    assert signed_rank_p(np.zeros(3)) == 1
    assert signed_rank_p(np.linspace(-1, 2, 60)) < 0.01


def test_holm_corrects_in_order_and_keeps_places():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_resampling_finds_the_deviation_of_a_mean():
    values = np.random.default_rng(0).normal(size=200)
    drawn = resampled(200, lambda i: values[i].mean())
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.1)
    low, high = middle(drawn)
    assert low < values.mean() < high and high - low == pytest.approx(3.92 * drawn.std(), rel=0.1)
    low, high = around(1.0, drawn)
    assert (high - low) / 2 == pytest.approx(1.96 * drawn.std(ddof=1))
