"""Tests that a checkpoint of another model is reported, with the preset that it fits."""
import pytest
import torch
from omegaconf import OmegaConf

from common.errors import CheckpointError
from common.files import REPOSITORY
from configuration.targets import instantiate_from_config
from weights.network import check_network, fitting_presets, load_network


def test_a_misfit_names_the_preset_that_fits(small_model, monkeypatch):
    monkeypatch.setattr(fitting_presets, "__defaults__", (small_model,))
    config = OmegaConf.load(small_model / "t2v.yaml").model.network_config
    config.params.num_layers = 1
    with pytest.raises(CheckpointError, match=r"t2v.yaml would fit it"):
        load_network(instantiate_from_config(config), small_model / "t2v")
    with pytest.raises(CheckpointError, match=r"t2v.yaml would fit it"):
        check_network(config, small_model / "t2v")


@pytest.mark.slow
def test_presets_are_compared_without_memory():
    preset = REPOSITORY / "configs" / "tiny_t2v.yaml"
    with torch.device("meta"):
        network = instantiate_from_config(OmegaConf.load(preset).model.network_config)
    assert "configs/tiny_t2v.yaml" in fitting_presets({k: v.shape for k, v in network.state_dict().items()})
