"""Tests of schedules: ends, spacing, agreement with the literature, and refused parameters."""
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.denoiser import Denoiser
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import FLOW, VP
from tests.sgm.problems import Gaussian, conditions, sampler_of, unit_noise

TIMED = ("LegacyDDPMDiscretization", "ZeroSNRDDPMDiscretization", "VPDiscretization")


def built(name, **params):
    return instantiate_from_config({"target": f"sgm.discretizer.{name}", "params": params})


@pytest.mark.parametrize("name, params, first, last", [
    ("EDMDiscretization", {}, 80.0, 0.002), ("LogSNRDiscretization", {"sigma_max": 20.0}, 20.0, 0.002),
    ("TabulatedDiscretization", {"sigmas": [9.0, 3.0, 0.1]}, 9.0, 0.1),
    ("TabulatedDiscretization", {"sigmas": "stable-video-diffusion"}, 700.0, 0.002),
    ("RectifiedFlowDiscretization", {"shift": 3.0, "sigma_min": 0.02}, math.inf, 0.02 / 0.98),
    ("VPRampDiscretization", {}, math.inf, 0.0292), ("VPRampDiscretization", {"sigma_max": 14.6}, 14.6, 0.0292),
])
def test_ramps_keep_their_ends_whatever_the_step_count(name, params, first, last):
    for n in (2, 7, 50):
        levels = built(name, **params).schedule(n).levels()
        assert levels[0].ratio == pytest.approx(first) and levels[-2].ratio == pytest.approx(last)
        assert levels[-1].clean and len(levels) == n + 1
        assert all(sooner.ratio > later.ratio for sooner, later in pairwise(levels))


def test_log_snr_steps_are_equal_and_tables_are_met_at_their_own_count():
    lambdas = [level.lamb for level in built("LogSNRDiscretization").schedule(9).levels()[:-1]]
    np.testing.assert_allclose(np.diff(lambdas), np.diff(lambdas)[0])
    sigmas = [7.0, 4.0, 1.5, 0.2]
    table = built("TabulatedDiscretization", sigmas=sigmas)
    np.testing.assert_allclose(table.levels(4), sigmas)
    assert table.levels(7)[1] == pytest.approx(math.sqrt(7 * 4)), "between two sigmas, their geometric mean"


def test_spacings_are_those_of_the_literature():
    """The timesteps are those of Lin et al. 2024, table 2, counted from 0."""
    def steps(spacing, n):
        return built("ZeroSNRDDPMDiscretization", spacing=spacing).timesteps(n)[::-1].tolist()
    assert steps("trailing", 10) == list(range(999, 0, -100))
    assert steps("leading", 10) == list(range(900, -1, -100))
    assert steps("linspace", 10) == list(range(999, -1, -111))
    assert steps("released", 4) == [999, 749, 499, 249]
    for spacing in ("trailing", "linspace"):
        levels = built("ZeroSNRDDPMDiscretization", spacing=spacing).schedule(30).levels()
        assert levels[0].alpha == 0 and levels[0].timestep == 999


def test_levels_of_other_spacings_are_entries_of_the_whole_table():
    discretization = built("ZeroSNRDDPMDiscretization", spacing="trailing", shift_scale=3.0)
    table = discretization.levels(1000)[::-1]
    np.testing.assert_array_equal(discretization.levels(40), table[discretization.timesteps(40)][::-1])


@pytest.mark.parametrize("ours, theirs", [
    ("linear", {"beta_schedule": "linear"}), ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
    ("scaled_linear", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
])
def test_vp_tables_are_those_of_diffusers(diffusers, ours, theirs):
    expected = diffusers.DDPMScheduler(**theirs).alphas_cumprod.sqrt().numpy()[::-1]
    np.testing.assert_allclose(built("VPDiscretization", beta_schedule=ours).levels(1000), expected, rtol=2e-4)


def test_rectified_flow_is_that_of_diffusers(diffusers):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12).tolist())
    ours = built("RectifiedFlowDiscretization", shift=3.0).schedule(12)
    np.testing.assert_allclose(ours.sigma.numpy(), scheduler.sigmas.numpy(), rtol=1e-6)
    torch.testing.assert_close(ours.alpha, 1 - ours.sigma)


@pytest.mark.parametrize("discretization", ["EDMDiscretization", "VPRampDiscretization", "RectifiedFlowDiscretization"])
@pytest.mark.parametrize("scaling", ["EDMScaling", "FlowScaling"])
def test_a_network_is_asked_at_equal_snr_over_any_schedule(discretization, scaling):
    """The exact network of one parameterization gives the exact estimate on noise levels of all others."""
    d = 0.5
    denoiser = Denoiser({"target": f"sgm.denoiser_scaling.{scaling}"}, sigma_max=1e9)

    def network(x, t, cond):
        level = t / 1000 if scaling == "FlowScaling" else (4 * t).exp()
        c_skip, c_out, c_in, _ = (c.view(-1, 1, 1, 1, 1) for c in denoiser.scaling(level))
        exact = Gaussian(denoiser.parameterization, d)(x / c_in, level, conditions(0.0)[0])
        return (exact - c_skip * x / c_in) / c_out

    parameterization = built(discretization).parameterization
    bound = denoiser.bind(network, parameterization)
    for level in built(discretization).schedule(6).levels()[1:-1]:
        x, levels = unit_noise(), torch.full((2,), level.level, dtype=torch.float64)
        expected = Gaussian(parameterization, d)(x, levels, conditions(0.0)[0])
        torch.testing.assert_close(bound(x, levels, {}), expected, rtol=1e-9, atol=1e-9)


def test_a_vp_network_is_asked_at_its_own_timestep_of_equal_snr():
    """A schedule from another table must not pass on timesteps of that table."""
    denoiser = instantiate_from_config({"target": "sgm.denoiser.DiscreteDenoiser", "params": {
        "num_idx": 1000, "quantize_c_noise": False,
        "scaling_config": {"target": "sgm.denoiser_scaling.VideoScaling"},
        "discretization_config": {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization"}}})
    table, asked = denoiser.sigmas.double().numpy(), []

    def network(x, t, cond):
        asked.append(float(np.interp(float(t[0]), np.arange(1000), table)))
        return 0 * x

    sampler = sampler_of("EulerEDMSampler", {"target": "sgm.discretizer.VPDiscretization",
                                             "params": {"beta_schedule": "cosine"}}, 8)
    sampler(denoiser.bind(network, VP), unit_noise(), {})
    np.testing.assert_allclose(asked, sampler.schedule().alpha[:-1], atol=1e-4)


@pytest.mark.parametrize("name", TIMED)
def test_step_counts_above_the_table_are_refused(name):
    for n in (0, 1001):
        with pytest.raises(ConfigError, match="num_steps: .* (not between 1 and 1000|use at least 1)"):
            built(name).schedule(n)


@pytest.mark.parametrize("name, params, message", [
    ("TabulatedDiscretization", {"sigmas": [1.0, 2.0, 0.1]}, "each below the one before"),
    ("TabulatedDiscretization", {"sigmas": [1.0, 0.0]}, "2 or more numbers above 0"),
    ("TabulatedDiscretization", {"sigmas": "sd3"}, "none of stable-diffusion-1.5, sdxl"),
    ("LogSNRDiscretization", {"sigma_min": 3.0, "sigma_max": 1.0}, "0 < sigma_min < sigma_max"),
    ("RectifiedFlowDiscretization", {"shift": 0.0}, "shift is 0.0; it must be a number above 0"),
    ("VPRampDiscretization", {"sigma_min": 0.0}, "sigma_min is 0.0; it must be a number above 0"),
    ("VPDiscretization", {"beta_schedule": "sigmoid"}, "must be linear, scaled_linear or cosine"),
    ("VPDiscretization", {"beta_schedule": "cosine", "linear_start": 0.1}, "leave them out"),
    ("VPDiscretization", {"spacing": "karras"}, "must be released, trailing, leading or linspace"),
])
def test_schedules_that_cannot_be_are_refused_when_built(name, params, message):
    with pytest.raises(ConfigError, match=message):
        built(name, **params)


def test_a_level_knows_its_ratio_in_every_parameterization():
    level = NoiseLevel(0.25, 0.75, None, 0, 1, FLOW)
    assert level.ratio == 3 and level.level == 0.75 and level.lamb == pytest.approx(-math.log(3))
