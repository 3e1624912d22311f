"""Guidance: scales by schedule, and passes that are skipped where they are not needed."""
import pytest
import torch

from errors import ConfigError
from sgm.util import instantiate_from_config
from tests.sgm.problems import EDM, SHAPE, ZERO_SNR, Gaussian, conditions, guider_config, sampler_of, unit_noise


def scales_of(num_steps=50, per_call=None, discretization=ZERO_SNR, **params):
    guider = instantiate_from_config(guider_config("DynamicCFG", scale=6.0, exp=5, **params))
    levels = sampler_of("EulerEDMSampler", discretization).schedule(num_steps).levels()[:-1]
    return [guider.scale_at(level, per_call) for level in levels]


def test_release_schedule_jumps_as_released():
    scales = scales_of(num_steps=50)
    assert [round(s, 2) for s in scales[:4]] == [2.29, 2.54, 6.97, 6.42]
    assert sum(scales) / 50 == pytest.approx(3.82, abs=0.005)


def test_the_samplers_step_count_reaches_the_guider():
    bare = instantiate_from_config(guider_config("DynamicCFG", scale=6.0, exp=5, num_steps=20))
    pair = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    timesteps = sampler_of("EulerEDMSampler", ZERO_SNR).schedule(20).timesteps[:-1]
    assert scales_of(num_steps=20) == [float(bare(pair, None, step_index=20 - t)) for t in timesteps.tolist()]


def test_smooth_schedules_rise_and_fall_between_one_and_one_plus_scale():
    rising, falling = scales_of(schedule="increasing"), scales_of(schedule="decreasing")
    assert rising == sorted(rising) and rising[0] < 1.01 and rising[-1] == 7.0
    assert falling == sorted(falling, reverse=True) and falling[0] > 6.99 and falling[-1] == 1.0
    assert sum(rising) / 50 == pytest.approx(1.94, abs=0.005)


def test_a_per_call_scale_replaces_the_configured_one_and_one_switches_off():
    assert scales_of(schedule="increasing", per_call=2.0)[-1] == 3.0
    assert set(scales_of(per_call=1)) == {1.0}
    per_row = scales_of(schedule="increasing", per_call=torch.tensor([2.0, 4.0]))[-1]
    assert per_row.tolist() == [3.0, 5.0]


@pytest.mark.parametrize("discretization, parameterization", [(EDM, "VE"), (ZERO_SNR, "VP")])
def test_interval_skips_the_unconditional_pass_outside(discretization, parameterization):
    guider = guider_config("DynamicCFG", scale=5.0, schedule="interval", sigma_lo=0.3, sigma_hi=4.0)
    denoiser, sampler = Gaussian(parameterization), sampler_of("EulerEDMSampler", discretization, 20, guider)
    sampler(denoiser, unit_noise(), *conditions())
    inside = sum(0.3 < level.ratio <= 4.0 for level in sampler.schedule().levels())
    assert 0 < inside < 20 and denoiser.calls == 20
    assert denoiser.rows == SHAPE[0] * (20 + inside)


def test_guidance_of_one_is_the_conditional_run_at_its_cost():
    plain, guided, noise, (cond, uc) = Gaussian(), Gaussian(), unit_noise(), conditions()
    expected = sampler_of("DPMPP2MSampler")(plain, noise, cond)
    out = sampler_of("DPMPP2MSampler", guider=guider_config(scale=1.0))(guided, noise, cond, uc)
    assert torch.equal(out, expected) and plain.rows == guided.rows


def test_guidance_moves_along_the_difference():
    noise, (cond, uc) = unit_noise(), conditions()
    at = {s: sampler_of("EulerEDMSampler")(Gaussian(), noise, {"crossattn": s * cond["crossattn"]}) for s in (0, 1, 3)}
    guided = sampler_of("EulerEDMSampler", guider=guider_config(scale=3.0))(Gaussian(), noise, cond, uc)
    torch.testing.assert_close(guided, at[3])  # the estimate is linear in the condition


def test_mistakes_are_refused_when_built():
    for params, message in [({"schedule": "sideways"}, "is none of"), ({"exp": 2.5}, "whole number"),
                            ({"schedule": "interval", "sigma_lo": 3.0, "sigma_hi": 1.0}, "sigma_lo < sigma_hi")]:
        with pytest.raises(ConfigError, match=message):
            instantiate_from_config(guider_config("DynamicCFG", scale=6.0, **params))
