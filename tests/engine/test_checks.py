"""Tests of the checks of a `model` section before any part of it is built."""
import pytest
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration.model import ModelConfig
from engine.checks import check_fit, check_structure, typed_model


def test_a_model_needs_an_embedder(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    config.conditioner_config.params.emb_models = []
    with pytest.raises(ConfigError, match="emb_models is empty"):
        typed_model(config)


def test_whole_numbers_written_with_a_point_become_whole_in_the_configuration_too(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    config.network_config.params.latent_width = 4.0
    assert typed_model(config).network_config["params"]["latent_width"] == 4
    assert type(config.network_config.params.latent_width) is int


def test_the_wrapper_is_checked_before_it_is_built(small_model):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    config.network_wrapper = "torch.nn.Identity"
    with pytest.raises(ConfigError, match="cannot be a network_wrapper"):
        typed_model(config)


@pytest.mark.parametrize("key, value", [("noised_image_dropout", 0.1), ("noised_image_all_concat", True),
                                        ("image_latent_scale", 0.5)])
def test_keys_of_the_image_need_a_model_that_takes_one(small_model, key, value):
    for name in ("t2v", "i2v"):
        config = OmegaConf.load(small_model / f"{name}.yaml").model
        config[key] = value
        if name == "i2v":
            check_fit(ModelConfig.read(config))
            continue
        with pytest.raises(ConfigError, match=f"model.{key} is {str(value).lower()}, but the model takes no image"):
            check_fit(ModelConfig.read(config))


@pytest.mark.parametrize("change, says", [
    ({"control_dropout": 0.1}, "the model takes no control clips"),
    ({"noised_image_dropout": 0.1}, "the model takes no image"),
    ({"time_windows": [3, 4]}, "time windows of 3 latent frames"),
    ({"windows_below": 2.0, "step_cache_config": {"target": "network.step_cache.TeaCache", "params": {"threshold": 1}}},
     "model.windows_below does not work with model.step_cache_config"),
    ({"compile_dynamic": True}, "compile_dynamic has no effect"),
    ({"denoiser_config": {"params": {"quantize_c_noise": True}}}, "which VideoScaling does not give; set quantize"),
    ({"step_cache_config": {"target": "network.step_cache.FirstBlockCache", "params": {"threshold": 1}},
      "network_config": {"params": {"num_layers": 1}}}, "FirstBlockCache always runs the first layer, and the network"),
    ({"latent_input": True, "network_config": {"params": {"in_channels": 3, "out_channels": 3}}},
     "does not work with latents of 3 channels"),
    ({"sampler_config": {"params": {"guider_config": {"target": "sgm.guiders.PerturbedAttentionGuidance",
                                                      "params": {"scale": 2.0, "layers": [99]}}}}}, "layers are 0 to")])
def test_a_plan_refuses_what_a_run_would(small_model, change, says):
    """Without weights and text encoder, which need not be there for a plan."""
    config = OmegaConf.merge(OmegaConf.load(small_model / "t2v.yaml").model, change)
    config.conditioner_config.params.emb_models[0].params.model_dir = "/nowhere"
    if "sampler_config" in change:
        config.sampler_config.params.guider_config = change["sampler_config"]["params"]["guider_config"]
    with pytest.raises(ConfigError, match=says):
        check_structure(typed_model(config))


@pytest.mark.parametrize("name", ["Basic2DPositionEmbeddingMixin", "Basic3DPositionEmbeddingMixin"])
def test_positions_without_a_text_length_are_for_no_text(small_model, name):
    config = OmegaConf.load(small_model / "t2v.yaml").model
    config.network_config.params.modules.pos_embed_config = {"target": f"network.positions.{name}", "params": {}}
    with pytest.raises(ConfigError, match="text_length is 0, but the text encoder's max_length is"):
        check_fit(ModelConfig.read(config))
