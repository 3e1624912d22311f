"""Tests of the Brownian path from which steps can take their noise."""
import math

import pytest
import torch

from common.errors import ConfigError
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE
from sgm.sampling.noise import BrownianPath, FreshNoise
from tests.sgm.problems import Gaussian, conditions, sampler_of, unit_noise

ROWS = torch.zeros(2, 4, 4, 16, 16, dtype=torch.float64)


def at(ratio):
    return NoiseLevel(1.0, ratio, None, 0, 1, VE)


def increment(path, high, low):
    """The increment of the Brownian motion between two ratios, whose times are their inverse squares."""
    return path(at(high), at(low)) * math.sqrt(low**-2 - high**-2)


def test_increments_add_up_and_are_unit_and_independent():
    path = BrownianPath(ROWS, [1, 2])
    high, middle, low = 7.0, 1.3, 0.4
    whole = increment(path, high, middle) + increment(path, middle, low)
    torch.testing.assert_close(whole, increment(path, high, low), rtol=0, atol=1e-6)
    one, two = path(at(high), at(middle)), path(at(middle), at(low))
    assert float(one.std()) == pytest.approx(1, abs=0.05) == float(two.std())
    assert abs(float((one * two).mean())) < 0.07
    assert abs(float((path.other(1)(at(high), at(low)) * path(at(high), at(low))).mean())) < 0.07


@pytest.mark.parametrize("high, low", [(math.inf, 80.0), (80.0, 79.9), (0.0021, 0.002)])
def test_noise_is_unit_everywhere(high, low):
    assert float(BrownianPath(ROWS, [1, 2])(at(high), at(low)).std()) == pytest.approx(1, abs=0.05)


def test_a_rows_noise_depends_on_its_seed_alone():
    both, alone = BrownianPath(ROWS, [1, 2]), BrownianPath(ROWS[1:], [2])
    assert torch.equal(both(at(3.0), at(2.0))[1:], alone(at(3.0), at(2.0)))
    assert not torch.equal(both(at(3.0), at(2.0))[0], both(at(3.0), at(2.0))[1])


@pytest.mark.parametrize("levels, message", [((), r"write run\.draw\(now, then\)"),
                                             ((at(1.0), at(1.0 + 1e-12)), "use fewer steps")])
def test_noise_without_a_step_is_refused(levels, message):
    with pytest.raises(ConfigError, match=message):
        BrownianPath(ROWS, [1, 2])(*levels)


def test_fresh_noise_is_drawn_as_ever():
    drawn = FreshNoise(ROWS, torch.Generator().manual_seed(3))(at(3.0), at(2.0))
    assert torch.equal(drawn, torch.randn(ROWS.shape, generator=torch.Generator().manual_seed(3), dtype=ROWS.dtype))


@pytest.mark.parametrize("name, params", [("EulerAncestralSampler", {}), ("SDEDPMPP2MSampler", {})])
def test_runs_of_few_and_many_steps_follow_one_path(name, params):
    def run(noise, steps):
        sampler = sampler_of(name, num_steps=steps, noise=noise, **params)
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return sampler(Gaussian(), unit_noise(), conditions()[0], generator=generators)

    apart = {noise: float((run(noise, 30) - run(noise, 60)).norm()) for noise in ("fresh", "path")}
    assert apart["path"] < apart["fresh"] / 2
    assert torch.equal(run("path", 10), run("path", 10))
