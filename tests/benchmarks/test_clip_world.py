"""Tests of the closed-form world of videos: against autograd, against draws, and through samplers and denoiser."""
import math

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.clip_world import ClipDenoiser, main, read_world
from benchmarks.kernel_density import ALL, KernelDensity
from benchmarks.studies.clip_density import bits, same_clip
from common.console import run
from common.errors import ConfigError, DataError
from common.seeds import generator_for
from configuration.targets import allow_targets, get_obj_from_str
from sgm.sampling import DPMPP2MSampler

TABLE = {"target": "sgm.discretizer.ZeroSNRDDPMDiscretization", "params": {"shift_scale": 1.0}}
SHAPE = (2, 3, 2, 2)  # of a clip
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.fixture
def density():
    clips = torch.randn(6, *SHAPE, generator=generator_for("clips"))
    return KernelDensity(clips, GROUPS, 0.1)


@pytest.fixture
def world(density, tmp_path):
    """A file of that density, with embeddings of two captions."""
    embeddings = torch.randn(2, 4, 8, generator=generator_for("captions"))
    save_file({"clips": density.clips, "groups": density.groups, "embeddings": embeddings},
              tmp_path / "world.safetensors", {"world": '{"captions": ["a", "b"], "bandwidth": 0.1}'})
    return tmp_path / "world.safetensors", embeddings


def denoiser_of(world):
    return ClipDenoiser({"target": "sgm.denoiser_scaling.VideoScaling"}, 1000, TABLE, str(world),
                        quantize_c_noise=False)


@pytest.mark.parametrize("alpha, sigma", [(1.0, 0.05), (0.9, math.sqrt(0.19)), (0.2, 0.98), (1.0, 0.0), (1.0, 30.0)])
def test_the_score_is_that_of_autograd_of_the_log_density(density, alpha, sigma):
    group = torch.tensor([0, 1, ALL])
    noise = torch.randn(3, *SHAPE, generator=generator_for("noise"), dtype=torch.float64)
    x = (alpha * density.draw(group, generator_for("draw")) + sigma * noise).requires_grad_()
    level = torch.full((3,), alpha, dtype=torch.float64), torch.full((3,), sigma, dtype=torch.float64)
    (score,) = torch.autograd.grad(density.log_density(x, *level, group).sum(), x)
    denoised = density.denoised(x.detach(), *level, group)
    assert denoised == pytest.approx((x.detach() + sigma**2 * score) / alpha, abs=1e-9)  # Tweedie
    weights = density.weights(x.detach(), *level, group)
    assert weights.sum(1) == pytest.approx(torch.ones(3))
    assert (weights[0, 3:] == 0).all() and (weights[1, :3] == 0).all()


def test_the_log_density_is_that_of_torch_and_bits_of_exact_draws_are_its_entropy(density):
    group = torch.tensor([0, 1, ALL, 0])
    x = density.draw(group, generator_for("draws"))
    parts = torch.distributions.Independent(torch.distributions.Normal(density.clips[:3].double(), 0.1), 4)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(3)), parts)
    clean = torch.ones(4), torch.zeros(4)
    assert density.log_density(x, *clean, group)[[0, 3]] == pytest.approx(mixture.log_prob(x[[0, 3]]), rel=1e-9)
    many = torch.zeros(400, dtype=torch.long)
    entropy = math.log(3) / 24 / math.log(2) + math.log2(0.1 * math.sqrt(2 * math.pi * math.e))  # modes are far apart
    assert bits(density, many, density.draw(many, generator_for("many"))).mean() == pytest.approx(entropy, abs=0.02)


def test_two_exact_draws_show_one_clip_as_often_as_chance(density):
    many = torch.zeros(600, dtype=torch.long)
    assert same_clip(density, density.draw(many, generator_for("pairs")), many, 300) == pytest.approx(1 / 3, abs=0.03)
    assert same_clip(density, density.clips[[0, 3, 0, 3]], torch.tensor([0, 1, 0, 1]), 2) == pytest.approx(1)


def test_samplers_reach_the_clips_of_the_caption_with_and_without_guidance(world):
    path, embeddings = world
    density = read_world(str(path))[0]
    sampler = DPMPP2MSampler(discretization_config=TABLE, num_steps=30,
                             guider_config={"target": "sgm.guiders.VanillaCFG", "params": {"scale": 2.0}})
    denoiser = denoiser_of(path).bind(None, sampler.discretization.parameterization)
    noise = torch.randn(8, *SHAPE, generator=generator_for("start"))
    cond = {"crossattn": embeddings[torch.arange(8) % 2]}
    for uncond in (None, {"crossattn": torch.zeros(8, 4, 8)}):
        out = sampler(denoiser, noise, cond, uncond)
        group = density.weights(out, torch.ones(8), torch.zeros(8), torch.full((8,), ALL)).argmax(1) // 3
        assert group.tolist() == [0, 1] * 4


def test_what_the_world_does_not_have_is_one_line(world, tmp_path, capsys):
    path, embeddings = world
    denoiser, x, level = denoiser_of(path), torch.zeros(1, *SHAPE), torch.tensor([0.5])
    with pytest.raises(ConfigError, match="none of the captions"):
        denoiser(None, x, level, {"crossattn": embeddings[:1] + 1})
    with pytest.raises(ConfigError, match="no network to be given weak"):
        denoiser(None, x, level, {"crossattn": embeddings[:1]}, weak=True)
    (tmp_path / "no.safetensors").write_bytes(b"no world")
    for other in ("no.safetensors", "missing.safetensors"):
        with pytest.raises(DataError, match="is not a world of clips"):
            denoiser_of(tmp_path / other)
    assert run(main, ["--out", str(tmp_path / "w.safetensors"), "--bandwidth", "0"]) == 2
    assert "--bandwidth" in capsys.readouterr().err


def test_a_configuration_may_name_it_where_the_command_line_allows_it():
    with pytest.raises(ConfigError, match="may not be named"):
        get_obj_from_str("benchmarks.clip_density.ClipDenoiser", "model.denoiser_config")
    allow_targets("benchmarks.clip_world")
    assert get_obj_from_str("benchmarks.clip_world.ClipDenoiser", "model.denoiser_config") is ClipDenoiser
