"""Tests of a linear layer together with its activation."""
import torch

from common import cpu_operations
from network import linears


def layer() -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.Linear(16, 8)).bfloat16().requires_grad_(False)
    linears.use_plain_linears(made)
    return made[0]


@torch.no_grad()
def test_a_layer_with_a_hook_is_called(monkeypatch):
    monkeypatch.setattr(cpu_operations, "CPU_HAS_BFLOAT16", True)
    plain, x, called = layer(), torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).bfloat16(), []
    expected = linears.activated(plain, x, cpu_operations.gelu_tanh)
    assert torch.equal(expected, cpu_operations.linear_gelu_tanh(x, plain.weight, plain.bias))
    plain.register_forward_pre_hook(lambda module, given: called.append(module))
    torch.testing.assert_close(linears.activated(plain, x, cpu_operations.gelu_tanh), expected, atol=1e-2, rtol=2e-2)
    assert called == [plain]


@torch.no_grad()
def test_another_activation_follows_the_layer():
    plain, x = layer(), torch.ones(1, 16).bfloat16()
    assert torch.equal(linears.activated(plain, x, torch.relu), torch.relu(plain(x)))
