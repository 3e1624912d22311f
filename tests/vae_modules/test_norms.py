import pytest
import torch
import torch.nn.functional as F

from tests.vae_modules.small_vae import frames
from vae_modules import norms
from vae_modules.convolution import CausalState
from vae_modules.memory_order import in_memory_order
from vae_modules.norms import PlainNorm, SpatialNorm


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("leading", [True, False])
def test_the_norm_is_conditioned_where_the_latent_is(leading, grad):
    """Convolving the small latent and then resizing equals convolving the resized latent."""
    torch.manual_seed(0)
    norm = SpatialNorm(4, 2, groups=2).requires_grad_(False)
    f, zq = frames(2, 4, 5 if leading else 6, 4, 4), frames(2, 2, 3, 2, 2, seed=1)
    times = [0, 1, 1, 2, 2] if leading else [0, 0, 1, 1, 2, 2]
    large = F.interpolate(zq[:, :, times], scale_factor=(1, 2, 2), mode="nearest")
    expected = norm.norm_layer(f) * norm.conv_y.conv(large) + norm.conv_b.conv(large)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(norm(f, zq, CausalState() if leading else CausalState({norm: f})), expected)


@pytest.mark.parametrize("at_a_time", [1, 2**21])  # elements: frame by frame, and all at once
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_norm_in_place_is_the_norm(dtype, at_a_time, monkeypatch):
    """Means of the channels differ by more than they vary, and each video has statistics of its own."""
    monkeypatch.setattr(norms, "ELEMENTS_AT_A_TIME", at_a_time)
    norm = PlainNorm(8, groups=2).to(dtype)
    norm.weight.copy_(frames(8, seed=1))
    norm.bias.copy_(frames(8, seed=2))
    x = in_memory_order((frames(2, 8, 3, 5, 4) * torch.tensor([1, 3]).view(2, 1, 1, 1, 1)
                         + 10 * frames(2, 8, 1, 1, 1, seed=3)).to(dtype))
    expected = F.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps)
    assert not torch.equal(norm(x), x), "without permission x stays as it is"
    out = norm(x, overwrites=True)
    assert out.data_ptr() == x.data_ptr() and torch.equal(out, x)
    limits = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 4e-3, torch.float16: 1e-3}
    assert float((out.double() - expected).abs().max() / expected.abs().max()) < limits[dtype]


@torch.no_grad()
def test_a_mean_far_from_zero_costs_little_precision():
    """A variance that is the difference of the mean square and the squared mean would be wrong by a tenth here."""
    x, norm = in_memory_order(frames(1, 8, 5, 16, 16) + 300), PlainNorm(8, groups=2)
    expected = F.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps)
    for overwrites in (False, True):
        assert float((norm(x, overwrites=overwrites).double() - expected).abs().max()) < 1e-3


def test_a_norm_leaves_what_gradients_need():
    x = in_memory_order(frames(1, 4, 2, 3, 3))
    kept = x.clone()
    out = SpatialNorm(4, 2, groups=2)(x, frames(1, 2, 1, 1, 1), CausalState(), overwrites=True)
    assert torch.equal(x, kept) and out.requires_grad
