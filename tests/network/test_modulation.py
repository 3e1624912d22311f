"""Tests of modulation by experts: inside the LayerNorm, in place, and as expressions for a gradient."""
from dataclasses import replace

import pytest
import torch

from network.modulation import Experts, ModulatedNorm, Modulation, joint_addcmul

TEXT, VIDEO, WIDTH = 3, 5, 16
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def experts(rows: int = 1, dtype: torch.dtype = torch.float32) -> Experts:
    drawn = torch.Generator().manual_seed(0)
    text, video = (Modulation(*torch.randn(3, rows, 1, WIDTH, generator=drawn).to(dtype)) for _ in range(2))
    return Experts(text, video, TEXT)


def tokens(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, TEXT + VIDEO, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


def norm(affine: bool, dtype: torch.dtype = torch.float32) -> ModulatedNorm:
    made = ModulatedNorm(WIDTH, elementwise_affine=affine)
    if affine:
        torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(2))
        torch.nn.init.normal_(made.bias, generator=torch.Generator().manual_seed(3))
    return made.to(dtype)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_are_normalised_scaled_and_shifted_by_their_expert(rows, dtype, affine):
    by, x, made = experts(rows, dtype), tokens(dtype), norm(affine, dtype)
    plain = made(x).double()
    expected = torch.cat([plain[:, part] * expert.scale.double() + expert.shift.double() for part, expert in
                          ((slice(TEXT), by.text), (slice(TEXT, None), by.video))], dim=1)
    for recorded in (True, False):
        given = x.clone()
        with torch.set_grad_enabled(recorded):
            out = by.of_normed(made, given)
            of_video = by.of_video().of_normed(made, given[:, TEXT:])
        assert out.dtype == dtype and torch.equal(given, x)
        torch.testing.assert_close(out.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        torch.testing.assert_close(of_video.double(), expected[:, TEXT:], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_gate_is_written_over_its_branch_unless_a_gradient_needs_it():
    by, x, branch = experts(), tokens(), tokens() * 2
    kept = branch.clone()
    recorded = by.add_gated(x, branch)
    assert torch.equal(branch, kept)
    with torch.no_grad():
        out = by.add_gated(x, branch)
    assert out is branch and torch.equal(out, recorded)
    with torch.no_grad():  # a wider gate needs new memory
        wide = replace(by, video=replace(by.video, gate=by.video.gate.double()),
                       text=replace(by.text, gate=by.text.gate.double()))
        assert wide.add_gated(x.double(), kept.clone()).dtype == torch.float64


def test_joining_in_place_equals_concatenation():
    text, video = ([torch.randn(2, n, 8), torch.randn(2, n, 8), torch.randn(1, 1, 8)] for n in (3, 5))
    with torch.no_grad():
        in_place = joint_addcmul(text, video)
    assert torch.equal(in_place, joint_addcmul(text, video))
