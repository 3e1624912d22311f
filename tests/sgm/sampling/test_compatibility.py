"""Tests of what is found out about a sampler, its guider and a denoiser before they run."""
import pytest

from configuration.targets import instantiate_from_config
from sgm.sampling import idle_branches
from tests.sgm.problems import EDM, ZERO_SNR, guider_config, sampler_of

SKIP, STG = "SkipLayerGuidance", "SpatioTemporalSkipGuidance"
DENOISER = {"target": "sgm.denoiser.DiscreteDenoiser", "params": {
    "num_idx": 1000, "scaling_config": {"target": "sgm.denoiser_scaling.VideoScaling"},
    "discretization_config": ZERO_SNR}}


@pytest.mark.parametrize("discretization", [ZERO_SNR, EDM])
@pytest.mark.parametrize("name, params, steps, first, idle", [
    ("DynamicCFG", {}, 3, 0, []), ("VanillaCFG", {"scale": 1.0, "sigma_lo": 1e6}, 3, 0, []),
    ("VanillaCFG", {"sigma_hi": 1e-9}, 3, 0, ["uncond"]), ("IdentityGuider", None, 3, 0, []),
    (SKIP, {"layers": [0]}, 3, 0, ["weakened"]), (SKIP, {"layers": [0], "cfg_scale": 3.0}, 5, 0, ["weakened"]),
    (SKIP, {"layers": [0]}, 6, 0, []), (SKIP, {"layers": [0]}, 50, 9, []),
    (SKIP, {"layers": [0]}, 50, 10, ["weakened"]),
    (STG, {"layers": [0], "cfg_scale": 3.0, "sigma_hi": 1e-9}, 3, 0, ["weakened", "uncond"])])
def test_branches_that_no_step_evaluates_are_named(discretization, name, params, steps, first, idle):
    guider = guider_config(name) if params is None else guider_config(name, **{"scale": 6.0, **params})
    sampler = sampler_of("EulerEDMSampler", discretization, steps, guider)
    assert idle_branches(sampler, instantiate_from_config(DENOISER), first) == idle
