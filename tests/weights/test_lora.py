"""Tests of LoRA files: what they record, where they are refused, and merging."""
import pytest
import torch
from omegaconf import OmegaConf

from common.errors import CheckpointError, ConfigError
from configuration.settings import RunSettings
from configuration.targets import instantiate_from_config
from tests.dit_models import build, config, inputs
from weights import checkpoint, network
from weights.checkpoint import NETWORK_PREFIX, save_checkpoint
from weights.lora import checkpoint_of, configure_lora, load_lora, lora_of, merge, read_lora, trains_only_lora
from weights.lora_names import is_matrix, without_lora
from weights.network import load_network

LORA = {"lora_config": {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 3, "lora_alpha": 6}}}


@pytest.fixture
def tuned():
    return build(extra_modules=LORA)


@pytest.fixture
def folder(tuned, tmp_path):
    save_checkpoint(tmp_path / "lora", 5, checkpoint_of(lora_of(tuned)))
    return tmp_path / "lora"


def chosen(*files, **settings):
    return RunSettings(load_lora=list(map(str, files)), **settings)


def model_of(**params):
    return {"network_config": config(**params)}


def save_network(folder, network):
    save_checkpoint(folder, 1, {"module": {NETWORK_PREFIX + k: v for k, v in network.state_dict().items()}})
    return folder


def test_a_file_of_it_holds_the_matrices_rank_alpha_and_shapes_of_the_model(tuned, folder):
    lora = read_lora(folder)
    own = tuned.state_dict()
    assert (lora.rank, lora.alpha, lora.layers) == (3, 6.0, [0, 1])
    assert list(lora.matrices) == [name for name in own if is_matrix(name)]
    assert all(torch.equal(value, own[name]) for name, value in lora.matrices.items())
    assert {k: v.shape for k, v in lora.base.items()} == {k: v.shape for k, v in build().state_dict().items()}
    size, matrices = (folder / "5" / checkpoint.STATES).stat().st_size, sum(v.nbytes for v in lora.matrices.values())
    assert size < matrices + 30_000


def test_a_checkpoint_of_the_release_holds_the_model_too_and_no_alpha(tuned, tmp_path):
    lora = read_lora(save_network(tmp_path, tuned), 6)
    assert (lora.rank, lora.alpha) == (3, 6) and read_lora(tmp_path).alpha == 1
    assert set(lora.base) == set(without_lora(tuned.state_dict()))


@torch.no_grad()
def test_model_and_lora_loaded_one_after_the_other_are_the_trained_model(tuned, folder, tmp_path):
    plain = build()
    plain.load_state_dict(without_lora(tuned.state_dict()))
    model = model_of()
    configure_lora(model, chosen(folder))
    network = instantiate_from_config(model["network_config"]).eval()
    load_network(network, save_network(tmp_path / "base", plain))
    load_lora(network, chosen(folder))
    assert torch.equal(network(*inputs()), tuned(*inputs()))
    state = dict(plain.state_dict())
    merge(read_lora(folder), state)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(*inputs()), tuned(*inputs()), atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_checkpoint_with_both_loads_at_once(tuned, tmp_path):
    other = build(extra_modules=LORA, seed=4)
    load_network(other, save_network(tmp_path, tuned))
    assert torch.equal(other(*inputs()), tuned(*inputs()))


def test_it_may_be_on_some_layers(tmp_path):
    params = LORA["lora_config"]["params"] | {"layer_range": [1]}
    tuned = build(extra_modules={"lora_config": LORA["lora_config"] | {"params": params}})
    save_checkpoint(tmp_path, 1, checkpoint_of(lora_of(tuned)))
    model = model_of()
    configure_lora(model, chosen(tmp_path))
    network = instantiate_from_config(model["network_config"])
    load_lora(network, chosen(tmp_path))
    assert list(filter(is_matrix, network.state_dict())) == list(read_lora(tmp_path).matrices)


def test_another_models_is_refused_with_the_preset_it_is_for(folder, tmp_path, monkeypatch):
    presets = tmp_path / "presets"
    presets.mkdir()
    OmegaConf.save({"model": model_of()}, presets / "right.yaml")
    OmegaConf.save({"model": {"network_config": {"params": {"modules": LORA}}}}, presets / "overlay.yaml")
    monkeypatch.setattr(network.fitting_presets, "__defaults__", (presets,))
    with pytest.raises(CheckpointError, match="for another model; shapes differ: .*presets/right.yaml would fit"):
        configure_lora(model_of(in_channels=8), chosen(folder))  # the matrices alone would fit this model
    with pytest.raises(CheckpointError, match="another model; .*not in the model: .*preset"):
        configure_lora(model_of(num_layers=1), chosen(folder))


def test_of_an_unknown_model_the_matrices_are_compared(tuned, tmp_path):
    save_checkpoint(tmp_path, 1, {"module": dict(lora_of(tuned).matrices)})
    configure_lora(model_of(in_channels=8), chosen(tmp_path))
    for sizes, says in (({"num_layers": 1}, "which lacks 2 of its layers: transformer.layers.1.attention"),
                        ({"num_attention_heads": 1, "hidden_size": 32}, "matrix_A.0 is 3x64, wanted 3x32")):
        with pytest.raises(CheckpointError, match=f"does not fit the model.*{says}"):
            configure_lora(model_of(**sizes), chosen(tmp_path))


def test_a_lora_config_must_agree(folder):
    configure_lora(model_of(extra_modules=LORA), chosen(folder))
    other = {"lora_config": {"target": LORA["lora_config"]["target"], "params": {"r": 3}}}
    with pytest.raises(ConfigError, match="lora_config has r 3, lora_alpha 1, but the LoRA .* has 3, 6"):
        configure_lora(model_of(extra_modules=other), chosen(folder))


def test_model_and_lora_in_each_others_place_are_told(tuned, folder, tmp_path):
    with pytest.raises(CheckpointError, match="holds a LoRA alone; give it as args.load_lora"):
        load_network(build(), folder)
    with pytest.raises(CheckpointError, match="holds no LoRA; if these are the weights of a model"):
        read_lora(save_network(tmp_path / "base", build()))
    with pytest.raises(CheckpointError, match="holds a LoRA beside the model's weights"):
        load_network(build(), save_network(tmp_path / "both", tuned))


def test_whether_nothing_else_is_trained(tuned):
    assert not trains_only_lora(tuned)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(is_matrix(name))
    assert trains_only_lora(tuned)
    for parameter in tuned.parameters():
        parameter.requires_grad_(False)
    assert not trains_only_lora(tuned)
