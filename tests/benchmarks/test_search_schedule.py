"""Tests of the search for a schedule: least in sum among all choices, and better than even steps on Gaussian data."""
from itertools import combinations

import numpy as np
import pytest
import torch

from benchmarks.exact import Gaussian
from benchmarks.schedule_costs import best_levels, step_costs
from benchmarks.search_schedule import BY_HAND, SOLVER, compared, converged, errors, main, searched
from benchmarks.studies.problems import draws
from common.console import run


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
    assert rows[0][2] == f"{error:.4f}" and rows[1][3].startswith("-")


def test_a_step_from_the_converged_run_costs_nothing_where_it_is_exact(solve):
    trajectory = converged(solve, 8, 3)
    costs, ends = step_costs(trajectory, 1.0)
    assert np.isinf(costs[:, 3, :4]).all() and np.isfinite(costs[:4, 3, 4:]).all()
    assert ends[-1] < 0.05 < ends[0]


@pytest.mark.parametrize("words, says", [
    (["--steps", "1"], "--steps: [1] must be at least 2"), (["--steps", "50"], "needs as many --levels, not 40"),
])
def test_mistakes_are_one_line(words, says, capsys):
    assert run(main, words) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
