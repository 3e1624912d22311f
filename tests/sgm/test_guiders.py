"""Tests of guidance: scales by schedule, and branches that are skipped where they are not needed."""
import math
from itertools import pairwise

import pytest
import torch

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.guidance_scale import GuidanceScale
from sgm.guiders import COND, UNCOND, Estimates, Evaluation
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE, VP
from sgm.sampling import PassPlan
from sgm.sampling_utils import PercentileThresholding
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


@pytest.mark.parametrize("discretization, parameterization", [(EDM, VE), (ZERO_SNR, VP)])
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
    torch.testing.assert_close(guided, at[3])  # the estimate is linear in the conditioning


PERCENTILE = {"target": "sgm.sampling_utils.PercentileThresholding", "params": {"percentile": 0.9, "limit": 0.5}}
PAG, ALL = "PerturbedAttentionGuidance", slice(None)
GUIDERS = [  # name, parameters, branches where the scale is not 1
    ("VanillaCFG", {}, 2), ("VanillaCFG", {"rescale": 0.7}, 2), ("VanillaCFG", {"dyn_thresh_config": PERCENTILE}, 2),
    ("VanillaCFG", {"sigma_lo": 0.3, "sigma_hi": 4.0}, 2), ("VanillaCFG", {"schedule": "increasing"}, 2),
    ("DynamicCFG", {"schedule": "decreasing"}, 2), ("DynamicCFG", {"schedule": "interval"}, 2),
    ("APG", {"norm_threshold": 0.5, "momentum": -0.5}, 2), ("APG", {"schedule": "decreasing", "rescale": 0.5}, 2),
    ("CFGZeroStar", {}, 2), ("ControlCFG", {}, 2), ("ControlCFG", {"control_scale": 2.0}, 3),
    ("TangentialCFG", {}, 2), ("CFGPlusPlus", {"scale": 0.6}, 2), ("SkipLayerGuidance", {"layers": [0], "stop": 1.0,
     "start": 0.0}, 2), ("SpatioTemporalSkipGuidance", {"layers": [0], "cfg_scale": 3.0}, 3),
    ("Autoguidance", {"ckpt_path": "weak"}, 2), (PAG, {"layers": [0]}, 2), (PAG, {"layers": [0], "cfg_scale": 3.0}, 3),
]
EACH = pytest.mark.parametrize("name, params, passes", GUIDERS)


class Imperfect(Gaussian):
    """The exact denoiser, made worse in the weakened branch."""

    WEAK = ("weak", "identity_attention", "skip_layers", "skip_attention")

    def __call__(self, x, level, cond, idx=None, **inputs):
        weak = [inputs.pop(name, None) for name in self.WEAK]
        return super().__call__(x, level, cond, idx, **inputs) * (0.8 if any(weak) else 1.0)


def run(guider, rows=ALL, denoiser=None, scale=None, **extra):
    noise, cond = unit_noise(), {"crossattn": torch.tensor([[[1.0]], [[-2.0]]], dtype=torch.float64)}
    uc = {"crossattn": torch.zeros(2, 1, 1, dtype=torch.float64)}
    cond, uc = ({name: value[rows] for name, value in half.items()} for half in (cond, uc))
    denoiser = Imperfect() if denoiser is None else denoiser
    return sampler_of("HeunEDMSampler", EDM, 8, guider)(denoiser, noise[rows], cond, uc, scale=scale, **extra)


def pushed(name, *estimates, x=None, noise=None, memory=None, **params):
    guider = instantiate_from_config(guider_config(name, **params))
    noise = noise or NoiseLevel(1.0, 1.0, None, 0, 10, VE)
    estimates = [torch.tensor([row], dtype=torch.float64) for row in estimates]
    guided, memory = guider.guide(estimates, Evaluation(x, noise, guider.scale), memory)
    return guided[0].tolist(), memory


@EACH
def test_a_step_costs_the_declared_passes(name, params, passes):
    guider, denoiser, steps = guider_config(name, **{"scale": 5.0, **params}), Imperfect(), []
    sampler = sampler_of("EulerEDMSampler", EDM, 12, guider)
    sampler(denoiser, unit_noise(), *conditions(), callback=steps.append)
    expected = [1 if sampler.guider.scale_at(now) == 1 else passes for now in sampler.schedule().levels()[:-1]]
    assert len(sampler.guider.passes) == passes
    assert denoiser.rows == SHAPE[0] * sum(expected)
    assert [step.passes for step in steps] == [sum(expected[:i + 1]) for i in range(12)]


class OneBatch(Imperfect):
    """A denoiser that refuses branches joined into one forward pass."""

    def __call__(self, x, *args, **inputs):
        assert len(x) == SHAPE[0]
        return super().__call__(x, *args, **inputs)


@EACH
def test_passes_one_by_one_are_not_joined_and_give_the_same(name, params, passes):
    guider, joined, alone = guider_config(name, **{"scale": 5.0, **params}), Imperfect(), OneBatch()
    expected = run(guider, denoiser=joined)
    found = run(guider, denoiser=alone, plan=PassPlan(one_by_one=True))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert alone.rows == joined.rows


@EACH
def test_scale_one_is_the_conditional_run_at_its_cost(name, params, passes):
    plain, guided = Imperfect(), Imperfect()
    expected = run(None, denoiser=plain)
    assert torch.equal(run(guider_config(name, **{"scale": 5.0, **params}), denoiser=guided, scale=1), expected)
    assert torch.equal(run(guider_config(name, **{**params, "scale": 1.0}), denoiser=guided), expected)
    assert guided.rows == 2 * plain.rows


@pytest.mark.parametrize("schedule", GuidanceScale.SCHEDULES)
def test_scale_one_is_no_guidance_with_every_schedule_and_for_each_row(schedule):
    guider = instantiate_from_config(guider_config("DynamicCFG", scale=1.0, schedule=schedule))
    levels = sampler_of("EulerEDMSampler", ZERO_SNR, 50).schedule().levels()[:-1]
    assert {guider.scale_at(level) for level in levels} == {1.0}
    guider = instantiate_from_config(guider_config("DynamicCFG", scale=6.0, schedule=schedule))
    rows = [guider.scale_at(level, torch.tensor([1.0, 6.0], dtype=torch.float64)) for level in levels]
    assert {float(row[0]) for row in rows if isinstance(row, torch.Tensor)} == {1.0}
    assert [float(torch.as_tensor(row).flatten()[-1]) for row in rows] == [guider.scale_at(at) for at in levels]


def test_scale_one_outside_a_run_is_the_conditional_half():
    pair = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for params in ({}, {"dyn_thresh_config": {"target": "sgm.sampling_utils.DynamicThresholdingV2"}}):
        assert torch.equal(instantiate_from_config(guider_config(scale=1, **params))(pair, None), pair[2:])


@EACH
def test_a_row_is_guided_without_its_neighbours(name, params, passes):
    guider = guider_config(name, **{"scale": 5.0, **params})
    torch.testing.assert_close(run(guider)[1:], run(guider, slice(1, 2)), rtol=1e-9, atol=1e-9)
    scales = torch.tensor([2.0, params.get("scale", 5.0)], dtype=torch.float64)
    torch.testing.assert_close(run(guider, scale=scales)[1:], run(guider, slice(1, 2)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name, params", [
    ("VanillaCFG", {"sigma_lo": 0.0, "sigma_hi": 1e9}), ("APG", {"eta": 1.0}), ("ControlCFG", {}),
    ("APG", {"eta": 1.0, "norm_threshold": 1e9}),
    ("VanillaCFG", {"dyn_thresh_config": {**PERCENTILE, "params": {"percentile": 1.0, "limit": 1e9}}}),
    ("DynamicCFG", {"schedule": "interval", "scale": 4.0, "sigma_lo": 0.0, "sigma_hi": 1e9}),
])
def test_at_its_neutral_setting_it_is_classifier_free_guidance(name, params):
    plain = run(guider_config("VanillaCFG", scale=5.0))
    torch.testing.assert_close(run(guider_config(name, **{"scale": 5.0, **params})), plain, rtol=1e-9, atol=1e-9)


def test_a_pass_that_is_no_worse_does_not_push():
    same = Gaussian()
    for name, params in (("Autoguidance", {"ckpt_path": "weak"}), (PAG, {"layers": [0]})):
        torch.testing.assert_close(run(guider_config(name, **{"scale": 5.0, **params}), denoiser=same), run(None))
    both = guider_config(PAG, scale=5.0, layers=[0], cfg_scale=3.0)
    torch.testing.assert_close(run(both, denoiser=same), run(guider_config(scale=3.0)))


def test_rescaling_brings_the_deviation_back():
    assert pushed("VanillaCFG", [0.0, 0.0], [1.0, -1.0], scale=3.0, rescale=1.0)[0] == [1.0, -1.0]
    assert pushed("VanillaCFG", [0.0, 0.0], [1.0, -1.0], scale=3.0, rescale=0.5)[0] == pytest.approx([2.0, -2.0])


def test_projected_guidance_by_hand():
    uncond, cond = [0.0, -1.0], [1.0, 0.0]  # difference (1, 1), of which (1, 0) is parallel to cond
    assert pushed("APG", uncond, cond, scale=3.0)[0] == [1.0, 2.0]
    assert pushed("APG", uncond, cond, scale=3.0, eta=0.5)[0] == [2.0, 2.0]
    assert pushed("APG", uncond, cond, scale=3.0, norm_threshold=0.5**0.5)[0] == pytest.approx([1.0, 1.0])
    assert pushed("APG", uncond, cond, scale=3.0)[1] is None
    _, memory = pushed("APG", uncond, cond, scale=3.0, momentum=-0.5)
    again, memory = pushed("APG", uncond, cond, scale=3.0, momentum=-0.5, memory=memory)  # (1, 1) - 0.5 (1, 1)
    assert again == [1.0, 1.0] and memory[0].tolist() == [0.5, 0.5]
    assert pushed("APG", [1.0, 1.0], [0.0, 0.0], scale=3.0)[0] == [-2.0, -2.0]  # cond is 0: no direction to project on


def test_the_optimised_scale_by_hand_and_on_every_schedule():
    x = torch.zeros(1, 2, dtype=torch.float64)
    vp = NoiseLevel(0.6, 0.8, None, 0, 10, VP)
    # At x = 0 velocities are multiples of the estimates: s* = 2 / 4, and the scaled unconditional is (1, 0).
    assert pushed("CFGZeroStar", [2.0, 0.0], [1.0, 2.0], x=x, noise=vp, scale=2.0)[0] == pytest.approx([1.0, 4.0])
    x, ve = torch.tensor([[0.3, -2.0]], dtype=torch.float64), NoiseLevel(1.0, 0.8 / 0.6, None, 0, 10, VE)
    both = [pushed("CFGZeroStar", [2.0, 0.5], [1.0, 2.0], x=at, noise=noise, scale=2.0)[0]
            for at, noise in ((x, vp), (x / 0.6, ve))]
    assert both[0] == pytest.approx(both[1])


def test_perturbed_attention_adds_to_classifier_free_guidance():
    # perturbed 2, unconditional 1, conditional 3: 3 + (4 - 1) (3 - 2) + (2 - 1) (3 - 1)
    assert pushed(PAG, [2.0], [1.0], [3.0], scale=4.0, layers=[0], cfg_scale=2.0)[0] == [8.0]


def test_text_and_control_clip_are_guided_by_scales_of_their_own():
    # without both 1, without text 2, with both 4: 1 + 3 (2 - 1) + 5 (4 - 2)
    assert pushed("ControlCFG", [1.0], [2.0], [4.0], scale=5.0, control_scale=3.0)[0] == [14.0]
    seen = []

    def denoiser(x, level, cond, **inputs):
        seen.append({name: given.flatten(1).sum(1).tolist() for name, given in cond.items()})
        return torch.zeros_like(x)

    rows = {"crossattn": torch.ones(2, 1, 1), "concat": torch.ones(2, 1, 1, 1, 1)}
    uncond = rows | {"crossattn": torch.zeros(2, 1, 1)}
    sampler_of("EulerEDMSampler", EDM, 1, guider_config("ControlCFG", scale=5.0, control_scale=3.0))(
        denoiser, unit_noise(), rows, uncond)
    assert seen == [{"crossattn": [0, 0, 0, 0, 1, 1], "concat": [0, 0, 1, 1, 1, 1]}]


@pytest.mark.parametrize("discretization, parameterization", [(EDM, VE), (ZERO_SNR, VP)])
def test_cfg_plus_plus_is_its_algorithm(discretization, parameterization):
    """x0 guided by lambda, the noise of the unconditional estimate carried on, written out step by step."""
    lam, noise, (cond, uc) = 0.6, unit_noise(), conditions()
    sampler = sampler_of("VideoDDIMSampler", discretization, 7, guider_config("CFGPlusPlus", scale=lam))
    steps = []
    found = sampler(Gaussian(parameterization), noise, cond, uc, callback=steps.append)
    levels = sampler.schedule().levels()
    x, denoiser = steps[0].x, Gaussian(parameterization)
    for now, then in pairwise(levels):
        at = torch.full((len(x),), now.level, dtype=x.dtype)
        with_prompt, without = (denoiser(x, at, half) for half in (cond, uc))
        carried = (x - now.alpha * without) / now.sigma
        x = then.alpha * (without + lam * (with_prompt - without)) + then.sigma * carried
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_tangential_guidance_is_that_of_diffusers(diffusers):
    from diffusers.guiders.tangential_classifier_free_guidance import normalized_guidance
    g = torch.Generator().manual_seed(2)
    x, cond, uncond = torch.randn(3, 2, 4, 3, generator=g).double()
    noise = NoiseLevel(0.6, 0.8, None, 0, 10, VP)
    guider = instantiate_from_config(guider_config("TangentialCFG", scale=4.0))
    found, _ = guider.guide([uncond, cond], Evaluation(x, noise, 4.0))
    noises = [(x - 0.6 * estimate) / 0.8 for estimate in (cond, uncond)]
    expected = (x - 0.8 * normalized_guidance(*noises, guidance_scale=4.0)) / 0.6
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_weakened_branch_is_evaluated_in_its_share_of_the_steps():
    for cfg_scale, outside in ((1.0, 1), (3.0, 2)):
        params = {"layers": [0], "cfg_scale": cfg_scale, "start": 0.1, "stop": 0.3}
        guider, steps = guider_config("SkipLayerGuidance", scale=4.0, **params), []
        sampler_of("EulerEDMSampler", EDM, 20, guider)(Imperfect(), unit_noise(), *conditions(), callback=steps.append)
        costs = [b - a for a, b in pairwise([0, *(step.passes for step in steps)])]
        assert costs == [outside] * 2 + [outside + 1] * 4 + [outside] * 14


def test_outside_its_steps_there_is_classifier_free_guidance_alone():
    guider = guider_config("SkipLayerGuidance", scale=4.0, layers=[0], cfg_scale=3.0, start=0.98, stop=0.99)
    torch.testing.assert_close(run(guider), run(guider_config("VanillaCFG", scale=3.0)), rtol=1e-9, atol=1e-9)


def test_a_branch_that_was_not_evaluated_is_named():
    with pytest.raises(ConfigError, match="no branch 'condi' was evaluated, only uncond, cond; did you mean cond"):
        Estimates((UNCOND, COND), (None, None))["condi"]


def test_percentiles_are_each_rows_own():
    threshold = PercentileThresholding(percentile=0.5)
    rows = torch.tensor([[1.0, -2.0, 3.0, 4.0], [0.1, 0.2, -0.3, 0.4]])
    assert threshold(rows, rows, 1.0).tolist()[0] == [0.5, -1.0, 1.0, 1.0]
    torch.testing.assert_close(threshold(rows, rows, 1.0)[1], rows[1])


@pytest.mark.parametrize("name, params, message", [
    ("DynamicCFG", {"schedule": "sideways"}, "must be constant, "), ("DynamicCFG", {"exp": 2.5}, "whole number"),
    ("DynamicCFG", {"schedule": "interval", "sigma_lo": 3.0, "sigma_hi": 1.0}, "sigma_lo < sigma_hi"),
    ("DynamicCFG", {"schedule": "decreasing", "exp": 0}, "exp: 0 must be above 0"),
    ("VanillaCFG", {"sigma_lo": -1.0}, "sigma_lo is -1.0"), ("VanillaCFG", {"scale": "much"}, "must be a number"),
    ("DynamicCFG", {"scale": 0}, "scale: 0 must be above 0; 1 .--guidance-scale 1. is no guidance"),
    ("APG", {"scale": -2.0}, "scale: -2.0 must be above 0"), ("VanillaCFG", {"scale": math.nan}, "a finite number"),
    (PAG, {"layers": [0], "scale": math.inf}, "a finite number"),
    (PAG, {"layers": [0], "cfg_scale": math.nan}, "a finite number"),
    (PAG, {"layers": [0], "cfg_scale": 0}, "cfg_scale is 0; it must be a number above 0"),
    ("VanillaCFG", {"sigma_hi": math.nan}, "sigma_hi is nan; it must be a number, 0 or more"),
    ("VanillaCFG", {"rescale": 1.5}, "rescale is 1.5; it must be a number from 0 to 1"),
    ("APG", {"momentum": -1.0}, "above -1 and below 1"),
    ("APG", {"norm_threshold": 0.0}, "norm_threshold is 0.0; it must be a number above 0"),
    ("APG", {"etta": 0.0}, "did you mean eta"),
    ("Autoguidance", {}, "second, weaker checkpoint"), (PAG, {}, "layers missing"),
    (PAG, {"layers": []}, "list of 1 or more whole numbers, 0 or more"),
    (PAG, {"layers": [-1]}, "list of 1 or more whole numbers, 0 or more"),
    ("CFGPlusPlus", {}, "scale"), ("CFGPlusPlus", {"scale": 0.5, "schedule": "increasing"}, "scales above 1"),
    ("CFGPlusPlus", {"scale": 0.5, "schedule": "interval"}, "scales above 1"),
    ("SkipLayerGuidance", {"layers": [0], "start": 0.5, "stop": 0.5}, "needs start < stop"),
    ("SpatioTemporalSkipGuidance", {"layers": [0], "skip": "text"}, "skip"),
    ("VanillaCFG", {"dyn_thresh_config": {**PERCENTILE, "params": {"percentile": 0.0}}},
     "percentile is 0.0; it must be a number above 0 and at most 1"),
])
def test_mistakes_are_refused_when_built(name, params, message):
    with pytest.raises(ConfigError, match=message) as error:
        instantiate_from_config(guider_config(name, **{"scale": 6.0, **params}))
    assert "\n" not in str(error.value)
