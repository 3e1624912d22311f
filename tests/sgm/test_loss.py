"""Tests of training losses: values per sample, the network's inputs, and the timesteps that each rank draws."""
from itertools import pairwise

import pytest
import torch

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from tests.sgm.problems import LEGACY, ZERO_SNR, unit_noise


def sampler_config(discretization=ZERO_SNR, **params):
    return {"target": "sgm.sigma_sampling.DiscreteSampling",
            "params": {"discretization_config": discretization, "num_idx": 1000, **params}}


def loss_of(**params):
    return instantiate_from_config({"target": "sgm.loss.VideoDiffusionLoss",
                                    "params": {"sigma_sampler_config": sampler_config(), **params}})


def denoiser_of(scaling="VideoScaling", discretization=ZERO_SNR):
    return instantiate_from_config({"target": "sgm.denoiser.DiscreteDenoiser", "params": {
        "scaling_config": {"target": f"sgm.denoiser_scaling.{scaling}"}, "num_idx": 1000, "quantize_c_noise": False,
        "discretization_config": discretization}})


def zero_network(x, t, cond, **inputs):
    return torch.zeros_like(x)


def test_weighted_error_is_the_error_in_v_for_every_sample():
    """A network that predicts v = 0 errs by v, whose mean square is 1 at every timestep for unit data."""
    x = unit_noise(shape=(64, 2, 4, 8, 8), dtype=torch.float32)
    terms = loss_of().terms(zero_network, denoiser_of(), dict, x, {}, generator=torch.Generator().manual_seed(0))
    assert terms.loss.shape == terms.timesteps.shape == terms.weight.shape == (64,)
    torch.testing.assert_close(terms.loss, torch.ones(64), rtol=0.25, atol=0)
    torch.testing.assert_close(terms.weight, 1 / (1 - terms.level**2))


def test_min_snr_bounds_each_samples_own_weight():
    x = unit_noise(shape=(32, 1, 2, 2, 2), dtype=torch.float32)
    free, bound = (loss_of(**p).terms(zero_network, denoiser_of(), dict, x, {}, torch.Generator().manual_seed(0))
                   for p in ({}, {"min_snr_value": 1.5}))
    assert torch.equal(bound.weight, free.weight.clamp(max=1.5)) and len(bound.weight.unique()) > 5


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_latent_frames_that_do_not_count_change_nothing(kind):
    x = unit_noise(shape=(3, 4, 2, 2, 2), dtype=torch.float32)
    counted = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])

    def terms(x, batch):
        return loss_of(type=kind).terms(zero_network, denoiser_of(), dict, x, batch, torch.Generator().manual_seed(0))

    whole, masked = terms(x, {}), terms(x, {"counted": counted})
    torch.testing.assert_close(masked.loss[1], whole.loss[1])
    other = torch.where(counted[:, :, None, None, None] == 1, x, 7.0)
    assert torch.equal(terms(other, {"counted": counted}).loss, masked.loss)
    first = loss_of(type=kind)._error(torch.zeros_like(x[2:, :1]), x[2:, :1], torch.ones(1))
    torch.testing.assert_close(loss_of(type=kind)._error(torch.zeros_like(x), x, torch.ones(3), counted)[2:], first)


def test_the_network_is_given_the_image_latent_and_ofs_of_the_batch():
    given = {}

    def network(x, t, cond, **inputs):
        given.update(inputs, **cond, t=t)
        return torch.zeros_like(x)

    x = unit_noise(dtype=torch.float32)
    batch = {"concat_images": x + 1, "ofs": torch.tensor([2.0, 2.0]), "fps": torch.tensor([8.0, 8.0])}
    terms = loss_of().terms(network, denoiser_of(), lambda b: {"crossattn": torch.ones(2, 1, 1)}, x, batch)
    assert torch.equal(given["concat"], x + 1) and torch.equal(given["ofs"], batch["ofs"]) and "fps" not in given
    assert torch.equal(given["t"], terms.timesteps)


def test_a_generator_makes_the_loss_reproducible():
    x, loss = unit_noise(dtype=torch.float32), loss_of(offset_noise_level=0.1)
    a, b = (loss(zero_network, denoiser_of(), dict, x, {}, generator=torch.Generator().manual_seed(4))
            for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("size, group_num, groups", [(1, 40, 1), (4, 0, 4), (8, 40, 8), (80, 40, 40), (7, 0, 7)])
def test_explicit_uniform_sampling_covers_the_timesteps_once(size, group_num, groups):
    sampler = instantiate_from_config(sampler_config(uniform_sampling=True, group_num=group_num))
    intervals = sorted({sampler.interval(rank, size) for rank in range(size)})
    assert len(intervals) == groups and intervals[0][0] == 0 and intervals[-1][1] == 1000
    assert all(a[1] == b[0] for a, b in pairwise(intervals))


def test_mismatched_parts_are_refused():
    with pytest.raises(ConfigError, match="VideoDiffusionLoss needs VP levels"):
        loss_of(sigma_sampler_config=sampler_config(LEGACY))
    with pytest.raises(ConfigError, match="needs a denoiser on VP levels"):
        loss_of()(zero_network, denoiser_of("EpsScaling", LEGACY), dict, unit_noise(), {})
    with pytest.raises(ConfigError, match="type is 'lpips'; it must be l2 or l1"):
        loss_of(type="lpips")
