"""Tests of runs that start from a clip: noised in part (SDEdit), or inverted to the noise that leads to it."""
import math
from itertools import pairwise

import pytest
import torch

from common.errors import ConfigError
from sgm.parameterization import VE, VP
from sgm.sampling import FromClip, invert
from tests.sgm.problems import EDM, SAMPLERS, ZERO_SNR, Gaussian, conditions, guider_config, sampler_of, unit_noise

SCHEDULES = ((EDM, VE), (ZERO_SNR, VP))


def clip(scale=0.6):
    return scale * unit_noise(seed=7)


def generator():
    return torch.Generator().manual_seed(3)


def exact_flow(x, level, mean=1.0, d=0.5):
    """Return the end of the probability flow that is x at a noise level, for Gaussian data."""
    return mean + (x - level.alpha * mean) * d / math.sqrt(level.sigma**2 + level.alpha**2 * d**2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_of_the_steps_from_zero_snr_leave_nothing_of_the_clip(name):
    sampler = sampler_of(name, ZERO_SNR, guider=guider_config(scale=3.0))
    from_noise, from_clip = (sampler(Gaussian(VP), unit_noise(), *conditions(), generator=generator(), start=start)
                             for start in (None, FromClip(clip(), 1.0)))
    assert torch.equal(from_noise, from_clip)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("discretization, parameterization", SCHEDULES)
def test_none_of_the_steps_leave_the_clip(name, discretization, parameterization):
    out = sampler_of(name, discretization)(
        Gaussian(parameterization), unit_noise(), conditions()[0], start=FromClip(clip(), 0.0))
    assert torch.equal(out, clip())


@pytest.mark.parametrize("discretization, parameterization", SCHEDULES)
@pytest.mark.parametrize("strength, left", [(0.29, 29), (0.5, 50), (0.999, 99)])
def test_the_run_follows_the_flow_from_the_level_that_leaves_its_share_of_steps(
        discretization, parameterization, strength, left):
    sampler, steps = sampler_of("DPMPP2MSampler", discretization, 100), []
    out = sampler(Gaussian(parameterization), unit_noise(), conditions()[0], start=FromClip(clip(), strength),
                  callback=steps.append)
    assert [step.index for step in steps] == list(range(100 - left, 100)), "guidance sees the place in the whole run"
    level = sampler.schedule().levels()[100 - left]
    expected = exact_flow(level.alpha * clip() + level.sigma * unit_noise(), level)
    torch.testing.assert_close(out, expected, rtol=0, atol=0.1)  # the step to the clean end is only of first order


def test_a_strength_outside_its_range_is_refused():
    for strength in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match="strength is .* from 0 to 1"):
            FromClip(clip(), strength)
        with pytest.raises(ConfigError, match="strength is .* from 0 to 1"):
            invert(sampler_of("EulerEDMSampler"), Gaussian(), clip(), conditions()[0], strength=strength)


def round_trip(sampler, parameterization, num_steps, **options):
    """Return the largest error of a clip after inversion and sampling."""
    denoiser, cond = Gaussian(parameterization), conditions()[0]
    start = invert(sampler, denoiser, clip(), cond, num_steps, **options)
    out = sampler(denoiser, torch.zeros_like(clip()), cond, num_steps=num_steps, start=start)
    return float((out - clip()).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("discretization, parameterization", SCHEDULES)
@pytest.mark.parametrize("name", ["EulerEDMSampler", "VideoDDIMSampler"])
def test_the_error_of_a_round_trip_falls_with_steps_and_rounds(name, discretization, parameterization):
    sampler = sampler_of(name, discretization)
    once = [round_trip(sampler, parameterization, n, rounds=1) for n in (25, 50, 100, 200)]
    assert all(later < 0.7 * sooner for sooner, later in pairwise(once))
    assert round_trip(sampler, parameterization, 50) < 1e-3 * once[1]
    assert round_trip(sampler, parameterization, 50, rounds=12) < 1e-9


@pytest.mark.parametrize("discretization, parameterization", SCHEDULES)
def test_inversion_follows_the_flow_to_its_noise(discretization, parameterization):
    sampler = sampler_of("EulerEDMSampler", discretization, 400)
    start = invert(sampler, Gaussian(parameterization), clip(), conditions()[0])
    level = sampler.schedule().levels()[start.first]
    torch.testing.assert_close(exact_flow(start.latents, level), clip(), rtol=0, atol=0.1)


def test_inversion_stops_where_something_of_the_clip_is_left():
    cond, steps = conditions()[0], []
    zero_snr, edm = sampler_of("EulerEDMSampler", ZERO_SNR), sampler_of("EulerEDMSampler", EDM)
    assert invert(zero_snr, Gaussian(VP), clip(), cond, callback=steps.append).first == 1
    assert [(s.index, s.num_steps, s.sigma > 0) for s in steps] == [(i, 9, i > 0) for i in range(9)]
    assert invert(edm, Gaussian(), clip(), cond).first == 0
    half = invert(edm, Gaussian(), clip(), cond, strength=0.5)
    assert half.first == 5
    nothing = invert(edm, Gaussian(), clip(), cond, strength=0.0)
    assert nothing.first == 10 and torch.equal(nothing.latents, clip())
