"""Tests of the parameterizations: their formulas agree with each other, and a discretization may name one."""
import math

import pytest
import torch

from common.errors import ConfigError
from sgm.denoiser import Denoiser
from sgm.discretizer.base import Discretization
from sgm.parameterization import FLOW, VE, VP, named

ALL = pytest.mark.parametrize("kind", [VE, VP, FLOW], ids=str)


@ALL
@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0, 30.0])
def test_alpha_sigma_and_level_lead_to_each_other(kind, ratio):
    alpha, sigma = kind.at_ratio(ratio)
    assert sigma == pytest.approx(ratio * alpha)
    level = torch.tensor([kind.level(alpha, sigma)], dtype=torch.float64)
    torch.testing.assert_close(torch.cat(kind.alpha_sigma(level)), torch.tensor([alpha, sigma], dtype=torch.float64))


@ALL
@pytest.mark.parametrize("other", [VE, VP, FLOW], ids=str)
def test_levels_of_equal_ratio(kind, other):
    alpha, sigma = (torch.tensor([value], dtype=torch.float64) for value in other.at_ratio(0.7))
    found_alpha, found_sigma = kind.alpha_sigma(kind.equal_ratio(alpha, sigma))
    torch.testing.assert_close(found_sigma / found_alpha, sigma / alpha)


@ALL
def test_rising_follows_the_noise(kind):
    pairs = [kind.at_ratio(ratio) for ratio in (0.1, 1.0, 10.0)]
    rising = [kind.rising(kind.level(*pair)) for pair in pairs]
    assert rising == sorted(rising)


def test_zero_terminal_snr():
    assert VP.at_ratio(math.inf) == FLOW.at_ratio(math.inf) == (0.0, 1.0)


def test_a_discretization_may_name_its_parameterization():
    class Named(Discretization):
        parameterization = "VP"

    assert Named.parameterization is VP is named("VP")
    with pytest.raises(ConfigError, match="parameterization is 'vp'; it must be VE, VP or flow"):
        named("vp")


def test_a_scaling_may_name_its_parameterization():
    denoiser = Denoiser({"target": "sgm.denoiser_scaling.FlowScaling"})
    level, x = torch.tensor([0.4]), torch.ones(1, 1, 1, 1, 1)
    expected = denoiser.bind(lambda x, t, cond: 0 * x, VP)(x, level, {})
    denoiser.scaling.parameterization = "flow"
    assert denoiser.parameterization is FLOW
    assert torch.equal(denoiser.bind(lambda x, t, cond: 0 * x, "VP")(x, level, {}), expected)
