"""Tests of AdamW in 8 bits: it moves weights as AdamW does, in a quarter of the memory, and resumes exactly."""
import sys

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from training import eight_bit
from training.deepspeed_section import check_deepspeed
from training.eight_bit import AdamW8bit, with_floats

SHAPES = ((100, 100), (5,), (5000,))  # none of them a multiple of the block


def weights():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator)


def trained(optimizer, parameters, steps):
    for step in steps:
        give_gradients(parameters, step)
        optimizer.step()


def test_weights_move_as_with_adamw_at_a_quarter_of_the_memory():
    own, others = weights(), weights()
    begin = [p.detach().clone() for p in own]
    optimizer, exact = AdamW8bit(own, lr=1e-2, weight_decay=0.1), torch.optim.AdamW(others, lr=1e-2, weight_decay=0.1)
    trained(optimizer, own, range(20)), trained(exact, others, range(20))
    for moved, right, start in zip(own, others, begin, strict=True):
        assert (moved - right).norm() < 0.03 * (right - start).norm()
    kept = sum(value.nbytes for entry in optimizer.state_dict()["state"].values() for value in entry.values())
    assert kept < 0.27 * 8 * sum(p.numel() for p in own)


def test_slices_change_nothing(monkeypatch):
    whole, divided = weights(), weights()
    trained(AdamW8bit(whole, lr=1e-2), whole, range(3))
    monkeypatch.setattr(eight_bit, "SLICE_ON_CPU", 2 * eight_bit.BLOCK)
    trained(AdamW8bit(divided, lr=1e-2), divided, range(3))
    assert all(map(torch.equal, whole, divided))


def test_a_saved_state_goes_on_bit_for_bit():
    own, resumed = weights(), weights()
    optimizer = AdamW8bit(own, lr=1e-2)
    trained(optimizer, own, range(5))
    state = optimizer.state_dict()
    assert all(type(value) is torch.Tensor for entry in state["state"].values() for value in entry.values())
    with torch.no_grad():
        for parameter, value in zip(resumed, own, strict=True):
            parameter.copy_(value)
    after = AdamW8bit(resumed, lr=1e-2)
    after.load_state_dict(state)
    trained(optimizer, own, range(5, 9)), trained(after, resumed, range(5, 9))
    assert all(map(torch.equal, own, resumed))


def test_moments_as_floats_fit_the_weights_and_can_be_loaded():
    own = weights()
    optimizer = AdamW8bit(own, lr=1e-2)
    trained(optimizer, own, range(5))
    floats = with_floats({"optimizer": optimizer.state_dict(), "weights": own})["optimizer"]
    assert [entry["exp_avg"].numel() for entry in floats["state"].values()] == [p.numel() for p in own]
    again = AdamW8bit(own, lr=1e-2)
    again.load_state_dict(floats)
    found = with_floats({"optimizer": again.state_dict(), "weights": own})["optimizer"]
    for key, entry in floats["state"].items():
        for name, value in entry.items():
            torch.testing.assert_close(found["state"][key][name], value, rtol=0.02, atol=1e-6)


def test_weights_in_another_order_are_updated():
    weight = nn.Parameter(torch.randn(80, 80).t())
    before = weight.detach().clone()
    trained(AdamW8bit([weight], lr=1e-2, weight_decay=0.0), [weight], [0])
    torch.testing.assert_close((weight - before).abs(), torch.full((80, 80), 1e-2), rtol=1e-3, atol=1e-5)


def test_a_missing_torchao_is_reported_with_the_settings(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match="AdamW8bit needs torchao"):
        check_deepspeed({"train_micro_batch_size_per_gpu": 1,
                         "optimizer": {"type": "AdamW8bit", "params": {"lr": 1e-3}}}, 1)
