"""Tests of rotation by positions, alone and after the LayerNorm of each head."""
import math

import pytest
import torch

from common.tensors import PLANNED_PIECES
from dry_run.meter import TakenFor
from network import rotation
from network.rotation import RotatedNorm, rotate

HEAD, TOKENS = 16, 50
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def drawn(dtype: torch.dtype) -> torch.Tensor:
    """Return queries (2, 3, TOKENS, HEAD) as the projections have them in memory, tokens before heads."""
    return torch.randn(2, TOKENS, 3, HEAD, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(1, 2)


def tables() -> rotation.Rotary:
    angles = torch.randn(TOKENS, HEAD // 2, generator=torch.Generator().manual_seed(1))
    return angles.cos(), angles.sin()


def test_pairs_turn_by_their_angle():
    angle, x = 0.7, torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    turned = rotate(x, (torch.full((1, 1), math.cos(angle)), torch.full((1, 1), math.sin(angle)))).flatten()
    expected = torch.tensor([3 * math.cos(angle) - 4 * math.sin(angle), 4 * math.cos(angle) + 3 * math.sin(angle)])
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize("at_a_time", [1, 7 * 3 * HEAD, 10**6])
@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_a_few_tokens_at_a_time_turn_as_all_do_in_float32(dtype, at_a_time, monkeypatch):
    x, kept = drawn(dtype), drawn(dtype)
    monkeypatch.setattr(rotation, "CACHED_ELEMENTS", at_a_time)
    turned = rotate(x, tables())
    assert turned.is_contiguous() and torch.equal(x, kept)
    assert torch.equal(turned, rotate(x, tables(), torch.complex(*tables())))
    assert torch.equal(turned, rotate(x.float(), tables()).to(dtype))
    with torch.enable_grad():
        assert torch.equal(turned, rotate(x, tables()))


def test_a_plan_goes_through_few_pieces(monkeypatch):
    monkeypatch.setattr(rotation, "CACHED_ELEMENTS", 1)
    x, calls, norm = drawn(torch.bfloat16).to("meta"), [], RotatedNorm(HEAD, device="meta")
    monkeypatch.setattr(rotation.F, "layer_norm", lambda values, *rest, **named: calls.append(len(values)) or values)
    with torch.no_grad(), TakenFor(torch.device("cpu")):
        assert norm(x, tuple(table.to("meta") for table in tables())).shape == x.shape
    assert len(calls) <= 2 * PLANNED_PIECES and sum(calls) == 2 * TOKENS


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 7 * 3 * HEAD, 10**6])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_norm_rotates_what_it_normalises(dtype, at_a_time, affine, monkeypatch):
    monkeypatch.setattr(rotation, "CACHED_ELEMENTS", at_a_time)
    x, kept, norm = drawn(dtype), drawn(dtype), RotatedNorm(HEAD, eps=1e-6, elementwise_affine=affine)
    if affine:
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
        torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(3))
    norm.to(dtype)
    expected = rotate(norm.double()(x.double()).float(), tables())
    norm.to(dtype)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded):
            out = norm(x, tables())
            assert torch.equal(out, norm(x, tables(), torch.complex(*tables())))
        assert out.dtype == dtype and torch.equal(x, kept)
        torch.testing.assert_close(out.float(), expected, atol=TOLERANCE[dtype], rtol=2 * TOLERANCE[dtype])
    with torch.no_grad():  # rounded once
        torch.testing.assert_close(out.float(), expected, atol=1e-6, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5)
        assert torch.equal(norm(x), torch.nn.LayerNorm.forward(norm, x))
