"""Tests of benchmarks.growth: fitted laws, their text, and counted operations."""
import numpy as np
import pytest
import torch

from benchmarks.growth import Measured, Series, fit, law, measure, plot, row, told_law
from dry_run.work import Rates

SERIES = Series("products", "tokens", "n", (8, 16, 32),
                lambda n: (lambda: torch.ones(n, n) @ torch.ones(n, n), n), (1, 2))


def test_a_law_is_found_from_its_points():
    x = np.array([1.0, 2, 5, 9])
    assert fit(x, 3 * x + 0.5 * x**2, (1, 2)) == pytest.approx([3, 0.5])
    assert fit(x, 2 * x - 1, (0, 1)) == pytest.approx([0, fit(x, 2 * x - 1, (1,))[0]]), "nothing takes negative time"
    assert law(x, [3, 0.5], (1, 2)) == pytest.approx(3 * x + 0.5 * x**2)


def test_points_are_measured_beside_what_they_should_take(tmp_path):
    rates = Rates(products=1e9, attention=1.0, convolutions=1.0, cached=1e6, bytes=1.0, call=1.0)
    measured = measure(SERIES, rates, 2, torch.device("cpu"), "wall")
    # two calls of ones, which write a tensor each, and a product, whose traffic is part of its rate
    assert measured.counted == pytest.approx([2e-9 * n**3 + 1e-6 * 2 * 4 * n * n + 3 for n in SERIES.sizes])
    assert (measured.seconds > 0).all()
    exact = Measured(SERIES, measured.sizes, 1e-3 * measured.sizes + 2e-3 * measured.sizes**2, measured.sizes * 1e-3)
    told = row(exact)
    assert told["fitted"] == "1 ms n + 2 ms n²" and told["predicted"].startswith("1 ms n")
    assert told["points off the fit by at most"] == "0 %" and told_law(SERIES, np.array([0.0, 2.5e-7])) == "250 ns n²"
    plot([exact] * 4, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
