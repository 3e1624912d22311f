"""Tests of samplers against exact solutions, against each other, and on every schedule."""
import math

import numpy as np
import pytest
import torch

from common.errors import ConfigError, NumericalError
from configuration.targets import instantiate_from_config
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import VE, VP
from sgm.sampling import check_compatible
from tests.sgm.problems import (
    EDM,
    LEGACY,
    SAMPLERS,
    ZERO_SNR,
    Gaussian,
    conditions,
    guider_config,
    sampler_of,
    unit_noise,
)

VP_RAMP = {"target": "sgm.discretizer.VPRampDiscretization"}
SCALINGS = ("EDMScaling", "EpsScaling", "VScaling", "VScalingWithEDMcNoise", "VideoScaling")


def denoiser_of(scaling, discrete=True):
    config = {"target": f"sgm.denoiser_scaling.{scaling}"}
    if not discrete:
        return instantiate_from_config({"target": "sgm.denoiser.Denoiser", "params": {"scaling_config": config}})
    return instantiate_from_config({"target": "sgm.denoiser.DiscreteDenoiser", "params": {
        "scaling_config": config, "num_idx": 1000, "quantize_c_noise": False,
        "discretization_config": ZERO_SNR if scaling == "VideoScaling" else LEGACY}})


def test_evaluations_per_step_are_the_declared_ones():
    for name in SAMPLERS:
        sampler, denoiser = sampler_of(name, num_steps=6), Gaussian()
        sampler(denoiser, unit_noise(), conditions()[0])
        # A step to the clean end takes no second evaluation.
        assert sampler.nfe is None or denoiser.calls in (6 * sampler.nfe, 6 * sampler.nfe - 1), name


def test_euler_on_a_vp_schedule_is_ddim():
    denoiser, noise, (cond, _) = Gaussian(VP), unit_noise(), conditions()
    euler = sampler_of("EulerEDMSampler", ZERO_SNR)(denoiser, noise, cond)
    x, schedule = noise, sampler_of("EulerEDMSampler", ZERO_SNR).schedule()
    for a, a_next in zip(schedule.alpha[:-1], schedule.alpha[1:], strict=True):
        keep = ((1 - a_next**2) / (1 - a**2)).sqrt()
        x = keep * x + (a_next - a * keep) * denoiser(x, a.expand(len(x)), cond)
    torch.testing.assert_close(euler, x, rtol=1e-12, atol=1e-12)
    ddim = sampler_of("VideoDDIMSampler", ZERO_SNR)(denoiser, noise, cond)
    torch.testing.assert_close(euler, ddim, rtol=0, atol=0)


def test_the_same_levels_as_ve_and_as_vp_give_the_same_latents():
    """Every deterministic and stochastic step, including churn, is one formula in (alpha, sigma)."""
    class AsVE:
        parameterization = VE

        def schedule(self, n, device="cpu"):
            vp = sampler_of("EulerEDMSampler", ZERO_SNR).schedule(n + 1)
            ratio = (vp.sigma / vp.alpha)[1:]
            return NoiseSchedule(torch.ones_like(ratio), ratio, None, VE)

    class AsVP(AsVE):
        parameterization = VP

        def schedule(self, n, device="cpu"):
            ratio = super().schedule(n).sigma
            alpha = 1 / (1 + ratio**2).sqrt()
            return NoiseSchedule(alpha, ratio * alpha, None, VP)

    for name in SAMPLERS:
        params = {"s_churn": 3.0} if "EDM" in name else {}
        outs = []
        for discretization in (AsVE(), AsVP()):
            sampler = sampler_of(name, **params)
            sampler.discretization = discretization
            denoiser = Gaussian(discretization.parameterization)
            outs.append(sampler(denoiser, unit_noise(), conditions()[0], generator=torch.Generator().manual_seed(1)))
        torch.testing.assert_close(outs[0], outs[1], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("discretization", [EDM, LEGACY, ZERO_SNR], ids=["edm", "legacy", "zero_snr"])
def test_every_sampler_schedule_and_scaling_stays_finite_with_dynamic_guidance(name, discretization):
    params = {"s_churn": 2.0} if "EDM" in name else {}
    for scaling in SCALINGS:
        denoiser = denoiser_of(scaling)
        schedule = "decreasing" if name == "AdaptiveSampler" else "release"
        guider = guider_config("DynamicCFG", scale=6.0, schedule=schedule)
        sampler = sampler_of(name, discretization, 4, guider, **params)
        check_compatible(sampler, denoiser)
        seen = []

        def network(x, t, cond, ofs, seen=seen):
            seen.append((x.shape[0], cond["concat"].shape[0], ofs.shape[0]))
            assert torch.isfinite(x).all() and torch.isfinite(t).all() and float(x.abs().max()) < 100
            return 0.1 * x + cond["concat"]

        cond, uc = conditions()
        noise = unit_noise(dtype=torch.float32)
        cond["concat"] = uc["concat"] = torch.zeros_like(noise)
        bound = denoiser.bind(network, sampler.discretization.parameterization)
        out = sampler(bound, noise, cond, uc, ofs=torch.full((len(noise),), 2.0))
        assert torch.isfinite(out).all()
        assert all(len(set(rows)) == 1 for rows in seen)


def test_a_network_trained_on_vp_sees_over_edm_levels_what_it_was_trained_on():
    """The exact v-prediction network gives the exact estimate at every sigma in the trained range."""
    d, denoiser, x = 0.5, denoiser_of("VideoScaling"), unit_noise(dtype=torch.float32)
    seen = []

    def network(x, t, cond):
        seen.append(t)
        a = torch.as_tensor(np.interp(t.numpy(), np.arange(1000), denoiser.sigmas.numpy()), dtype=x.dtype)
        a = a.view(-1, 1, 1, 1, 1)
        denoised = a * d**2 / (1 - a**2 + a**2 * d**2) * x
        return (a * x - denoised) / (1 - a**2).sqrt()

    bound = denoiser.bind(network, VE)
    for sigma in (0.1, 1.0, 7.0, 80.0):
        level = torch.full((2,), sigma)
        noisy = x * math.sqrt(sigma**2 + d**2)
        torch.testing.assert_close(bound(noisy, level, {}), noisy * d**2 / (sigma**2 + d**2), rtol=1e-3, atol=1e-3)
        assert float(seen[-1][0]) == pytest.approx(bound.timestep_at(sigma), abs=1e-2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_does_not_depend_on_its_neighbours(name):
    sampler = sampler_of(name, **({"s_churn": 3.0} if "EDM" in name else {}))
    noise, cond = unit_noise(), {"crossattn": torch.tensor([[[1.0]], [[-2.0]]])}
    both = sampler(Gaussian(), noise, cond, generator=[torch.Generator().manual_seed(s) for s in (5, 6)])
    alone = sampler(Gaussian(), noise[1:], {"crossattn": cond["crossattn"][1:]},
                    generator=[torch.Generator().manual_seed(6)])
    torch.testing.assert_close(both[1:], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_of_scale_one_is_the_conditional_run(name):
    guided, alone = sampler_of(name, ZERO_SNR, guider=guider_config(scale=1.0)), sampler_of(name, ZERO_SNR)
    cond, uc = conditions()
    one, other = (sampler(Gaussian(VP), unit_noise(), cond, given, generator=torch.Generator().manual_seed(2))
                  for sampler, given in ((guided, uc), (alone, None)))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_input_is_left_as_it_is_and_seeds_reproduce(name):
    sampler, noise = sampler_of(name, ZERO_SNR), unit_noise(dtype=torch.float32)
    before = noise.clone()
    outs = [sampler(Gaussian(VP), noise, conditions()[0], generator=torch.Generator().manual_seed(3))
            for _ in range(2)]
    assert torch.equal(noise, before) and torch.equal(*outs)


def test_half_precision_noise_is_integrated_in_float32():
    out = sampler_of("EulerEDMSampler")(Gaussian(), unit_noise(dtype=torch.bfloat16), conditions()[0])
    assert out.dtype == torch.float32


def test_the_callback_sees_every_step_and_the_scale_used():
    steps = []
    guider = guider_config("DynamicCFG", scale=6.0, schedule="decreasing")
    sampler_of("HeunEDMSampler", ZERO_SNR, 10, guider)(
        Gaussian(VP), unit_noise(), *conditions(), num_steps=7, callback=steps.append)
    assert [s.index for s in steps] == list(range(7)) and {s.num_steps for s in steps} == {7}
    scales = [s.scale for s in steps]
    assert scales == sorted(scales, reverse=True) and scales[0] > 6.9 and scales[-1] == 1.0
    assert steps[0].alpha == 0 and steps[0].timestep == 999


def test_fixed_frames_come_out_as_they_went_in():
    noise = unit_noise(dtype=torch.float32)
    for sdedit in (False, True):
        sampler = sampler_of("VPSDEDPMPP2MSampler", ZERO_SNR, fixed_frames=1, sdedit=sdedit)
        assert torch.equal(sampler(Gaussian(VP), noise, conditions()[0])[:, :1], noise[:, :1])


def test_sdedit_with_little_noise_stays_near_the_clip():
    clip, noise = torch.full((2, 3, 2, 2, 2), 0.7), unit_noise(dtype=torch.float32)
    for discretization, parameterization in ((EDM, VE), (ZERO_SNR, VP)):
        sampler = sampler_of("SdeditEDMSampler", discretization, 50, edit_ratio=0.98)
        out = sampler(Gaussian(parameterization, d=5.0), clip, noise, conditions(0.0)[0])
        assert float((out - clip).abs().max()) < 0.6


def test_latents_that_leave_the_finite_numbers_stop_with_the_step_named():
    def network(x, level, cond):
        return torch.where(level[0] < 5, float("nan"), 0.0) * x
    with pytest.raises(NumericalError, match=r"sampling step \d+ of 10: "):
        sampler_of("EulerEDMSampler")(network, unit_noise(), conditions()[0])


def test_step_counts_that_cannot_be_are_refused_when_built():
    for discretization, n in ((EDM, 0), (ZERO_SNR, 0), (ZERO_SNR, 1001), (LEGACY, -1)):
        with pytest.raises(ConfigError, match="num_steps"):
            sampler_of("EulerEDMSampler", discretization, n)
    with pytest.raises(ConfigError, match="sigma_min < sigma_max"):
        instantiate_from_config({"target": "sgm.discretizer.EDMDiscretization", "params": {"sigma_min": 99.0}})


def test_pairs_that_cannot_work_are_refused_with_the_reason():
    release = guider_config("DynamicCFG", scale=6.0)
    with pytest.raises(ConfigError, match="release needs timesteps"):
        check_compatible(sampler_of("EulerEDMSampler", EDM, 10, release), denoiser_of("EDMScaling", discrete=False))
    check_compatible(sampler_of("EulerEDMSampler", EDM, 10, release), denoiser_of("VideoScaling"))
    with pytest.raises(ConfigError, match="no step of AdaptiveSampler is small enough"):
        check_compatible(sampler_of("AdaptiveSampler", ZERO_SNR, 10, release), denoiser_of("VideoScaling"))
    for discretization in (EDM, VP_RAMP):
        with pytest.raises(ConfigError, match="use DiscreteDenoiser"):
            check_compatible(sampler_of("EulerEDMSampler", discretization),
                             denoiser_of("VideoScaling", discrete=False))
    with pytest.raises(ConfigError, match="starts from a clip"):
        check_compatible(sampler_of("SdeditEDMSampler"), denoiser_of("EDMScaling"))
    with pytest.raises(ConfigError, match="VideoScaling works on VP levels"):
        instantiate_from_config({"target": "sgm.denoiser.DiscreteDenoiser", "params": {
            "scaling_config": {"target": "sgm.denoiser_scaling.VideoScaling"}, "num_idx": 1000,
            "discretization_config": LEGACY}})
