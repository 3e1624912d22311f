"""Tests of weights in 8 bits: a user error without torchao; with it, half the size and nearly the same output."""
import sys

import pytest
import torch

from common.errors import ConfigError
from configuration.settings import MemorySettings
from memory.quantization import check_quantization, quantize_linears
from tests.dit_models import build, inputs

CPU = torch.device("cpu")


def test_without_torchao_the_key_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    check_quantization(MemorySettings(), CPU)
    with pytest.raises(ConfigError, match="args.quantize_t5 needs torchao.*pip install torchao"):
        check_quantization(MemorySettings(quantize_t5="int8"), CPU)


@pytest.mark.parametrize("form, error", [("int8", 0.02), ("fp8", 0.08)])
def test_the_output_is_nearly_the_same_in_half_the_memory(form, error):
    pytest.importorskip("torchao", reason="torchao is optional")
    model = build().bfloat16().requires_grad_(False)
    latents, timesteps, text = (x.bfloat16() for x in inputs())
    expected = model(latents, timesteps=timesteps, context=text).float()
    dense = model.transformer.layers[0].mlp.dense_h_to_4h
    before = dense.weight.nbytes
    quantize_linears(model, form)
    assert type(dense.weight) is not torch.nn.Parameter and stored_bytes(dense.weight) < 0.6 * before
    found = model(latents, timesteps=timesteps, context=text).float()
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < error * expected.norm()


def test_products_of_8_bits_are_refused_where_there_are_none():
    pytest.importorskip("torchao", reason="torchao is optional")
    with pytest.raises(ConfigError, match="args.quantize_transformer: fp8_dynamic needs an accelerator"):
        check_quantization(MemorySettings(quantize_transformer="fp8_dynamic"), CPU)
    if not torch.accelerator.is_available():
        with pytest.raises(ConfigError, match="cannot quantize weights to fp8_dynamic: "):
            quantize_linears(build().bfloat16(), "fp8_dynamic")


def stored_bytes(weight):
    names, _ = weight.__tensor_flatten__()
    return sum(getattr(weight, name).nbytes for name in names if getattr(weight, name) is not None)
