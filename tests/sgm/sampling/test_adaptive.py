"""Tests of adaptive steps: the requested accuracy is met, for each row on its own, within a budget."""
import math

import pytest
import torch

from benchmarks.exact import WithoutLastJump
from common.errors import ConfigError, NumericalError
from sgm.parameterization import VP
from tests.sgm.problems import EDM, ZERO_SNR, Gaussian, conditions, guider_config, sampler_of, unit_noise

RAMP = {"target": "sgm.discretizer.VPRampDiscretization"}


def error_and_calls(tolerance, num_steps=2, d=0.5):
    sampler = sampler_of("AdaptiveSampler", RAMP, num_steps, rtol=tolerance, atol=tolerance)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    levels, denoiser, noise = sampler.schedule().levels(), Gaussian(VP, d), unit_noise()
    out = sampler(denoiser, noise, conditions(0.0)[0])
    return float((out - denoiser.flow(noise, levels[0], levels[-1])).abs().max()), denoiser.calls / len(noise)


def test_the_error_follows_the_tolerance_and_so_do_the_evaluations():
    errors, calls = zip(*(error_and_calls(tolerance) for tolerance in (1e-2, 1e-4, 1e-6)), strict=True)
    assert all(error < 20 * tolerance for error, tolerance in zip(errors, (1e-2, 1e-4, 1e-6), strict=True))
    assert calls[0] < calls[1] < calls[2] < 400 and calls[0] < 30


def test_the_number_of_levels_is_where_it_stops_and_not_how_exact_it_is():
    assert all(error_and_calls(1e-5, n)[0] < 2e-4 for n in (1, 5, 20))


def test_rows_take_steps_of_their_own_with_their_own_conditioning_and_scale():
    cond = {"crossattn": torch.tensor([[[3.0]], [[-0.2]]])}
    uc = {"crossattn": torch.zeros(2, 1, 1)}
    sampler = sampler_of("AdaptiveSampler", EDM, 5, guider_config(scale=4.0))
    scale, steps = torch.tensor([4.0, 1.5]), []
    both = sampler(Gaussian(), unit_noise(), cond, uc, scale=scale, callback=steps.append)
    for i in range(2):
        row = {"crossattn": cond["crossattn"][i:i + 1]}
        alone = sampler(Gaussian(), unit_noise()[i:i + 1], row, {"crossattn": uc["crossattn"][i:i + 1]},
                        scale=scale[i:i + 1])
        torch.testing.assert_close(both[i:i + 1], alone, rtol=1e-12, atol=1e-12)
    assert [step.index for step in steps] == list(range(5)) and steps[-1].passes > steps[0].passes > 0


def test_a_budget_that_is_used_up_stops_with_the_step_and_one_that_cannot_do_is_refused_when_built():
    with pytest.raises(ConfigError, match=r"max_evaluations: 30 are used up at sampling step \d of 4; raise it"):
        sampler_of("AdaptiveSampler", EDM, 4, rtol=1e-9, atol=1e-9, max_evaluations=30)(
            Gaussian(), unit_noise(), conditions()[0])
    with pytest.raises(ConfigError, match="29 is not enough for 10 steps"):
        sampler_of("AdaptiveSampler", EDM, 10, max_evaluations=29)
    with pytest.raises(ConfigError, match="not both be 0"):
        sampler_of("AdaptiveSampler", EDM, 10, rtol=0.0, atol=0.0)


def test_latents_that_leave_the_finite_numbers_stop_with_the_step_named():
    def network(x, level, cond, **inputs):
        return torch.where(level[0] > 0.5, math.nan, 0.0) * x
    with pytest.raises(NumericalError, match=r"sampling step \d+ of 10: "):
        sampler_of("AdaptiveSampler", ZERO_SNR)(network, unit_noise(), conditions()[0])
