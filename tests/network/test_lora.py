"""Tests of LoRA in the transformer: outputs and names as in SwissArmyTransformer, on any device, also compiled."""
import pytest
import torch
from torch import nn

from common.errors import ConfigError
from configuration.targets import get_obj_from_str, instantiate_from_config
from network import linears
from network.lora import LoraMixin
from parallel import groups
from tests.dit_models import build, config, inputs
from weights.lora_names import is_matrix, matrix_names, without_lora

RELEASED = "sat.model.finetune.lora2.LoraMixin"


def with_lora(**params):
    return {"lora_config": {"target": RELEASED, "params": {"r": 4, **params}}}


def library_model(**params):
    """Return the same transformer with the library's mixin."""
    from sat.model.finetune.lora2 import LoraMixin as LibraryMixin
    model = instantiate_from_config(config())
    model.add_mixin("lora", LibraryMixin(2, **params), reinit=True)
    linears.use_plain_linears(model)
    return model.eval()


def test_released_configurations_name_this_one():
    assert get_obj_from_str(RELEASED) is LoraMixin


@pytest.mark.parametrize("params", [{"r": 4}, {"r": 3, "lora_alpha": 6}, {"r": 2, "layer_range": [1]}])
def test_the_same_as_the_librarys_by_name_and_number(params):
    mine, other = build(extra_modules=with_lora(**params)), library_model(**params)
    own = mine.state_dict()
    assert own.keys() == other.state_dict().keys()
    other.load_state_dict(own, strict=True)
    outputs = [model(*inputs()) for model in (mine, other)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=0)
    for out in outputs:
        out.square().mean().backward()
    gradients = [{name: p.grad for name, p in model.named_parameters() if is_matrix(name)} for model in (mine, other)]
    assert gradients[0] and all(gradients[0][name].abs().sum() > 0 for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def test_a_base_models_weights_leave_the_lora_alone():
    base, tuned = build(), build(extra_modules=with_lora(), seed=1)
    before = {name: p.clone() for name, p in tuned.named_parameters() if is_matrix(name)}
    tuned.load_state_dict(base.state_dict(), strict=True)
    after = tuned.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(value, base.state_dict()[name]) for name, value in without_lora(after).items())
    incomplete = dict(base.state_dict())
    del incomplete["transformer.layers.0.attention.dense.bias"]
    with pytest.raises(RuntimeError, match="attention.dense.original.bias"):
        tuned.load_state_dict(incomplete, strict=True)


def test_it_builds_without_memory():
    with torch.device("meta"):
        model = instantiate_from_config(config(extra_modules=with_lora()))
    assert all(p.is_meta for p in model.parameters())
    assert [name for name in model.state_dict() if is_matrix(name)] == list(matrix_names(range(2)))


def test_it_compiles_whole():
    model = build(extra_modules=with_lora())
    layer = model.transformer.layers[0].attention.query_key_value
    x = torch.randn(2, 5, 64)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), layer(x))


def test_dropout_is_for_training_and_for_the_update_alone():
    model = build(extra_modules=with_lora(lora_dropout=0.5))
    layer, x = model.transformer.layers[0].attention.dense, torch.randn(3, 64)
    assert torch.equal(layer(x), layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    for matrix in layer.matrix_B:
        nn.init.zeros_(matrix)
    assert torch.equal(layer(x), layer.original(x))


@pytest.mark.parametrize("params, says", [
    ({"r": 0}, "r is 0"), ({"qlora": True}, "4-bit"), ({"layer_range": [1, 2]}, "layers 0 to 1"),
    ({"rank": 3}, "has no such parameter"),
])
def test_what_cannot_be_is_refused(params, says):
    with pytest.raises(ConfigError, match=says):
        instantiate_from_config(config(extra_modules=with_lora(**params)))


def test_processes_that_share_a_transformer_are_refused(monkeypatch):
    monkeypatch.setattr(groups, "model_parallel_size", lambda: 2)
    with pytest.raises(ConfigError, match="model_parallel_size above 1"):
        LoraMixin(2, r=4)


@pytest.mark.parametrize("params, says", [
    ({"layer_range": []}, "layer_range is empty"), ({"targets": []}, "targets is empty"),
    ({"lora_alpha": 0}, "lora_alpha is 0, so that the LoRA would do nothing")])
def test_a_lora_that_could_do_nothing_is_refused(params, says):
    with pytest.raises(ConfigError, match=says):
        build(extra_modules=with_lora(**params))
