"""Tests that a checkpoint of another model is reported, with the preset that it fits."""
import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch.testing._internal.distributed.fake_pg import FakeStore

from common.errors import CheckpointError
from common.files import REPOSITORY
from configuration.targets import instantiate_from_config
from parallel import groups
from tests.dit_models import build, config
from weights.network import build_network, check_network, fitting_presets, load_network


def test_a_misfit_names_the_preset_that_fits(small_model, monkeypatch):
    monkeypatch.setattr(fitting_presets, "__defaults__", (small_model,))
    network = OmegaConf.load(small_model / "t2v.yaml").model.network_config
    network.params.num_layers = 1
    with pytest.raises(CheckpointError, match=r"t2v.yaml would fit it"):
        load_network(instantiate_from_config(network), small_model / "t2v")
    with pytest.raises(CheckpointError, match=r"t2v.yaml would fit it"):
        check_network(network, small_model / "t2v")


@pytest.mark.slow
def test_presets_are_compared_without_memory():
    preset = REPOSITORY / "configs" / "tiny_t2v.yaml"
    with torch.device("meta"):
        network = instantiate_from_config(OmegaConf.load(preset).model.network_config)
    assert "configs/tiny_t2v.yaml" in fitting_presets({k: v.shape for k, v in network.state_dict().items()})


@pytest.fixture
def second_of_two():
    """The second of two processes that share a transformer; the first is not needed to load weights."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        groups.initialize(2)
        yield
    finally:
        groups.destroy()
        dist.destroy_process_group()


def test_the_whole_weights_of_a_network_that_processes_divide_fit_it(tmp_path, request):
    whole = build()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    request.getfixturevalue("second_of_two")
    check_network(config(), tmp_path / "whole.safetensors")
    half = build_network(config(), tmp_path / "whole.safetensors", torch.float32, "cpu")
    name = "transformer.layers.0.attention.dense.weight"
    assert torch.equal(half.state_dict()[name], whole.state_dict()[name].chunk(2, 1)[1])


@pytest.mark.parametrize("content", ["model: [unclosed", "- a", "model: ${foo}", "model: {network_config: 3}",
                                     "model: {network_config: {target: dit_video_concat.Nothing}}", "\xff"])
def test_a_faulty_preset_is_left_out_of_the_hint(small_model, tmp_path, content):
    shapes = {k: v.shape for k, v in instantiate_from_config(
        OmegaConf.load(small_model / "t2v.yaml").model.network_config).state_dict().items()}
    (tmp_path / "b.yaml").write_text((small_model / "t2v.yaml").read_text())
    (tmp_path / "a.yaml").write_text(content, encoding="latin-1")
    assert fitting_presets(shapes, tmp_path) == [f"{tmp_path.name}/b.yaml"]
