"""Tests of the search for a schedule: least in sum among all choices, and better than even steps on Gaussian data."""
import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from benchmarks.exact import Gaussian
from benchmarks.schedule_costs import HIGHEST, LOWEST, best_levels, step_errors, weighted
from benchmarks.schedule_moves import moved, shifted
from benchmarks.search_schedule import (
    BY_HAND,
    SOLVER,
    compared,
    converged,
    corrected,
    errors,
    improved,
    levels_of,
    main,
    searched,
    tabulated,
)
from benchmarks.studies.problems import draws
from common.console import run
from configuration.yaml_files import read_mapping


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_levels_found_cost_least_of_all(steps):
    generator, count = np.random.default_rng(0), 7
    costs, ends = generator.random((count,) * 3), generator.random(count)

    def cost(levels):
        places = [0, 0, *levels[1:]]
        return sum(costs[places[i], places[i + 1], places[i + 2]] for i in range(steps - 1)) + ends[levels[-1]]

    costs[np.tril(np.ones((count, count), bool))[None].repeat(count, 0)] = np.inf  # only to less noise
    every = [(0, *rest) for rest in combinations(range(1, count), steps - 1)]
    assert tuple(best_levels(costs, ends, steps)) == min(every, key=cost)


@pytest.fixture(scope="module")
def solve():
    rows = draws(16, 3)
    cond = {"crossattn": torch.zeros(len(rows), 1, 1)}

    def solved(sampler, callback=None):
        return sampler(Gaussian(sampler.discretization.parameterization), rows, cond, callback=callback)
    return solved


def test_what_is_found_ends_nearer_to_the_converged_run_than_even_steps(solve):
    trajectory = converged(solve, 24, 3)
    schedule, error = searched(solve, trajectory, 6, [1.0])
    assert len(schedule["params"]["sigmas"]) == 6
    even = errors(solve, SOLVER, BY_HAND["even log-SNR"], 6, trajectory.end).mean()
    assert error < 0.8 * even
    rows = compared(solve, trajectory.end, {"found": schedule, "even": BY_HAND["even log-SNR"]}, SOLVER, 6)
    assert rows[0]["error"] == f"{error:.4f}" and rows[1]["less"].startswith("-") and rows[1]["p"] < 0.01
    shown = corrected([*rows, *rows])
    assert shown[0][3:] == ["", ""] and float(shown[1][4]) == pytest.approx(2 * rows[1]["p"], rel=0.1)


def test_moves_make_any_start_better_and_keep_the_levels_in_order(solve):
    trajectory = converged(solve, 24, 3)
    start = tabulated([80.0, 40.0, 20.0, 10.0, 5.0, 2.5])
    before = errors(solve, SOLVER, start, 6, trajectory.end).mean()
    schedule, error = improved(solve, trajectory, [start], 6, 30)
    assert error < 0.5 * before
    assert errors(solve, SOLVER, schedule, 6, trajectory.end).mean() == pytest.approx(error, rel=1e-3)
    sigmas = schedule["params"]["sigmas"]
    assert all(HIGHEST >= a > b >= LOWEST for a, b in pairwise(sigmas))


def test_moves_stop_after_so_many_runs_and_go_towards_neighbours():
    tried = []

    def error_of(sigmas):
        tried.append(sigmas)
        return abs(math.log(sigmas[1])) + abs(math.log(sigmas[0] / 10))

    assert moved(error_of, [20.0, 2.0], 7)[1] < error_of([20.0, 2.0])
    assert len(tried) == 8
    assert shifted([16.0, 4.0, 1.0], 1, 0.5) == pytest.approx([16, 8, 1])
    assert shifted([16.0, 4.0, 1.0], 1, -0.5) == pytest.approx([16, 2, 1])
    assert shifted([HIGHEST, LOWEST], 0, 0.5) == shifted([HIGHEST, LOWEST], 1, -0.5) == [HIGHEST, LOWEST]


def test_zero_snr_counts_as_the_highest_level():
    levels = levels_of(BY_HAND["as trained"], 6)
    assert len(levels) == 6 and levels[0] == HIGHEST and levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("steps", [6, 8, 12])
def test_the_schedules_that_are_there_have_their_number_of_steps(steps):
    schedule = read_mapping(f"configs/schedules/small_model_{steps}.yaml")
    assert levels_of(schedule, steps) == pytest.approx(list(schedule["params"]["sigmas"]), rel=1e-6)
    assert len(schedule["params"]["sigmas"]) == steps


def test_a_step_from_the_converged_run_costs_nothing_where_it_is_exact(solve):
    trajectory = converged(solve, 8, 3)
    found, ends = step_errors(trajectory)
    assert np.isinf(found[:, 3, :4]).all() and np.isfinite(found[:4, 3, 4:]).all()
    assert weighted(found, trajectory.sigmas, 2.0)[1, 3, 5] == pytest.approx(
        found[1, 3, 5] / (1 + trajectory.sigmas[5]**2))
    assert ends[-1] < 0.05 < ends[0]


@pytest.mark.parametrize("words, says", [
    (["--steps", "1"], "--steps: [1] must be at least 2"), (["--steps", "50"], "needs as many --levels, not 40"),
    (["--trials", "0"], "--trials: 0 must be at least 1"),
])
def test_mistakes_are_one_line(words, says, capsys):
    assert run(main, words) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
