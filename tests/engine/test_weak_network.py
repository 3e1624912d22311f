"""Tests of guidance through the engine with an image, patches in time and `ofs`, and of autoguidance."""
from argparse import Namespace

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import CheckpointError, ConfigError
from common.seeds import generator_for
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from engine.checks import check_model
from weights.checkpoint import save_checkpoint

SHAPE = (4, 4, 4, 4)
PAG = "PerturbedAttentionGuidance"


@pytest.fixture(scope="module")
def config(small_model):
    """The configuration of an image-to-video model with patches of two latent frames and `ofs`."""
    config = OmegaConf.load(small_model / "i2v.yaml").model
    config.network_config.params.update(patch_size=[2, 2, 2], ofs_embed_dim=32)
    return config


def guided(config, name, **params):
    guider = {"target": f"sgm.modules.diffusionmodules.guiders.{name}", "params": {"scale": 3.0, **params}}
    config = OmegaConf.create(OmegaConf.to_container(config))
    config.sampler_config.params.guider_config = guider
    return config


def randomize(network, seed):
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(scope="module")
def weak(config, tmp_path_factory):
    """The parameters of Autoguidance by a network of one layer instead of two."""
    network_config = OmegaConf.to_container(config.network_config)
    network_config["params"]["num_layers"] = 1
    network = instantiate_from_config(network_config)
    randomize(network, 4)
    folder = tmp_path_factory.mktemp("weak")
    save_checkpoint(folder, 1, {"module": {f"model.diffusion_model.{k}": v for k, v in network.state_dict().items()}})
    return {"ckpt_path": str(folder), "network_config": network_config}


@pytest.fixture(scope="module")
def engine(config, weak):
    model_config = guided(config, "Autoguidance", **weak)
    engine = DiffusionEngine(Namespace(model_config=model_config, fp16=False, bf16=False, device="cpu")).eval()
    randomize(engine.network, 3)
    return engine


def sample(engine, rows, **extra):
    cond, uc = engine.conditioner.get_unconditional_conditioning(
        {"txt": ["a red circle", "a blue square"]}, force_uc_zero_embeddings=["txt"])
    image = engine.encode_image(torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32), 4, generator_for(9))
    cond["concat"] = uc["concat"] = image
    cond, uc = ({k: v[rows] for k, v in half.items()} for half in (cond, uc))
    return engine.sample(cond, uc, len(rows), SHAPE, generator=[generator_for(0, row) for row in rows], **extra)


@pytest.mark.parametrize("name, params", [
    ("VanillaCFG", {"rescale": 0.7, "sigma_lo": 0.3}), ("APG", {}), ("CFGZeroStar", {"schedule": "decreasing"}),
    (PAG, {"layers": [1]}), (PAG, {"layers": [0, 1], "cfg_scale": 3.0}), ("Autoguidance", {}),
    ("SkipLayerGuidance", {"layers": [1], "start": 0.0, "stop": 1.0}), ("TangentialCFG", {}),
    ("SpatioTemporalSkipGuidance", {"layers": [0], "cfg_scale": 3.0}), ("CFGPlusPlus", {"scale": 0.6})])
def test_every_guider_runs_with_an_image_and_ofs_row_by_row(config, weak, engine, name, params):
    params = weak if name == "Autoguidance" else params
    engine.sampler, steps = instantiate_from_config(guided(config, name, **params).sampler_config), []
    both = sample(engine, [0, 1], callback=steps.append)
    torch.testing.assert_close(sample(engine, [1])[0], both[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both, sample(engine, [0, 1], scale=1), atol=2e-3, rtol=0)
    assert steps[0].passes == len(engine.sampler.guider.passes)
    torch.testing.assert_close(steps[0].x_norm, steps[0].x.square().mean(dim=(1, 2, 3, 4)).sqrt())
    assert steps[-1].denoised_norm.shape == (2,)


def test_the_weaker_network_has_its_own_weights_that_are_never_trained(config, weak, engine):
    engine.sampler = instantiate_from_config(guided(config, "Autoguidance", **weak).sampler_config)
    asked = []
    hook = engine.weak_model.register_forward_hook(lambda module, args, out: asked.append(len(args[0])))
    sample(engine, [0])
    hook.remove()
    assert asked == [1, 1, 1]
    assert len(engine.weak_model.diffusion_model.transformer.layers) == 1
    assert not any(parameter.requires_grad for parameter in engine.weak_model.parameters())


@pytest.mark.parametrize("name, params, says", [
    ("Autoguidance", {}, "weaker checkpoint"), ("Autoguidance", {"ckpt_path": "nowhere"}, "nowhere does not exist"),
    (PAG, {"layers": [2]}, "the transformer's layers are 0 to 1")])
def test_guidance_that_cannot_be_is_refused_without_building(config, name, params, says):
    with pytest.raises((ConfigError, CheckpointError), match=says):
        check_model(guided(config, name, **params))


@pytest.mark.slow
def test_a_weaker_checkpoint_that_does_not_fit_is_refused_without_building(config, weak):
    with pytest.raises(CheckpointError, match="does not fit"):
        check_model(guided(config, "Autoguidance", ckpt_path=weak["ckpt_path"]))
    other = OmegaConf.to_container(OmegaConf.create(weak["network_config"]))
    other["params"]["in_channels"] = 4
    with pytest.raises(ConfigError, match="in_channels is 4, but it is 8"):
        check_model(guided(config, "Autoguidance", ckpt_path=weak["ckpt_path"], network_config=other))
