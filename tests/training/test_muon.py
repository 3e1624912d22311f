"""Tests of Muon: orthogonal updates for the layers' matrices, AdamW for everything else."""
import copy

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonal

ATTENTION = "transformer.layers.0.attention."
QKV, DENSE, OTHER = (f"{ATTENTION}query_key_value.weight", f"{ATTENTION}dense.weight",
                     "mixins.final_layer.linear.weight")


def parameters(*names, width=8):
    generator = torch.Generator().manual_seed(0)
    rows = {QKV: 3 * width}
    return {name: nn.Parameter(torch.randn(rows.get(name, width), width, generator=generator)) for name in names}


def give_gradients(weights, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in weights.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix) @ v.T
    values = inside.diagonal()
    assert values.min() > 0.6 and values.max() < 1.25
    torch.testing.assert_close(inside, values.diag(), atol=1e-4, rtol=0)


def test_each_projection_stored_in_one_matrix_is_orthogonal_by_itself():
    weights = parameters(QKV)
    before = weights[QKV].detach().clone()
    give_gradients(weights, seed=2)
    weights[QKV].grad[:8] *= 1e3  # a much larger gradient for the queries than for the others
    Muon(weights.items(), lr=0.1, weight_decay=0.0).step()
    for step in (weights[QKV].detach() - before).chunk(3):
        size = torch.linalg.svdvals(step) / (0.1 * 0.2 * 8 ** 0.5)
        assert size.min() > 0.6 and size.max() < 1.25


def test_all_other_weights_move_as_with_adamw():
    weights, others = parameters(DENSE, OTHER), parameters(DENSE, OTHER)
    muon = Muon(weights.items(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    adamw = torch.optim.AdamW(others.values(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(3):
        give_gradients(weights, step), give_gradients(others, step)
        muon.step(), adamw.step()
    assert torch.equal(weights[OTHER], others[OTHER])
    assert not torch.allclose(weights[DENSE], others[DENSE], atol=1e-3)


def test_a_saved_state_goes_on_bit_for_bit():
    weights = parameters(QKV, DENSE, OTHER)
    optimizer = Muon(weights.items(), lr=1e-2)
    give_gradients(weights, 0), optimizer.step()
    other = {name: nn.Parameter(p.detach().clone()) for name, p in weights.items()}
    resumed = Muon(other.items(), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for w, o in ((weights, optimizer), (other, resumed)):
        give_gradients(w, 1), o.step()
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_a_convolution_is_a_matrix_of_its_outputs_and_the_ends_of_an_autoencoder_are_none():
    generator = torch.Generator().manual_seed(0)
    names = ("decoder.up.0.block.0.conv1.conv.weight", "decoder.conv_out.conv.weight")
    weights = {name: nn.Parameter(torch.randn(4, 6, 3, 3, 3, generator=generator)) for name in names}
    others = {name: nn.Parameter(weight.detach().clone()) for name, weight in weights.items()}
    inner, end = names
    before = weights[inner].detach().clone()
    give_gradients(weights, seed=3), give_gradients(others, seed=3)
    Muon(weights.items(), lr=0.1, weight_decay=0.0).step()
    torch.optim.AdamW(others.values(), lr=0.1, weight_decay=0.0).step()
    step = torch.linalg.svdvals((weights[inner].detach() - before).flatten(1)) / (0.1 * 0.2 * (6 * 27) ** 0.5)
    assert step.min() > 0.6 and step.max() < 1.25
    assert torch.equal(weights[end], others[end])
