"""Matrix products in the precision that the processor computes fast."""
import pytest
import torch

import precision


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bfloat16_linear_is_rounded_once_at_most(has_bfloat16, monkeypatch):
    monkeypatch.setattr(precision, "CPU_HAS_BFLOAT16", has_bfloat16)
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=g).bfloat16() for shape in ((5, 64), (32, 64), (32,)))
    out = precision.linear(x, weight, bias)
    expected = x.double() @ weight.double().T + bias.double()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, atol=2e-2, rtol=2 ** -7)


def test_float32_is_left_alone():
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    assert torch.equal(precision.linear(x, weight, None), torch.nn.functional.linear(x, weight))
