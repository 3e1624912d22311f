import weakref

import pytest
import torch
import torch.nn.functional as F

from tests.vae_modules.small_vae import frames
from vae_modules import convolution
from vae_modules.convolution import CausalConv3d, CausalState
from vae_modules.layers import Downsample3D, Upsample3D


def test_convolution_in_chunks_equals_the_whole():
    torch.manual_seed(0)
    conv, x = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 7, 4, 4)
    whole = conv(x, CausalState())
    past, pieces = CausalState(), []
    for chunk in x.split([1, 3, 1, 2], dim=2):
        pieces.append(conv(chunk, past))
        past = CausalState(past.after)
    torch.testing.assert_close(torch.cat(pieces, 2), whole)


def test_convolution_never_looks_ahead():
    torch.manual_seed(0)
    conv, x = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 6, 4, 4)
    changed = x.clone()
    changed[:, :, 4:] = 9
    a, b = conv(x, CausalState()), conv(changed, CausalState())
    torch.testing.assert_close(a[:, :, :4], b[:, :, :4])
    assert not torch.isclose(a[:, :, 4], b[:, :, 4]).any()


def test_before_the_first_frame_it_stands_still():
    torch.manual_seed(0)
    conv, first = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 1, 4, 4)
    still = conv(first.expand(-1, -1, 5, -1, -1), CausalState())
    torch.testing.assert_close(conv(first, CausalState()), still[:, :, -1:])


def test_the_past_of_a_chunk_stays_as_it_is():
    torch.manual_seed(0)
    conv = CausalConv3d(2, 2, 3).requires_grad_(False)
    opening = CausalState()
    conv(frames(1, 2, 3, 4, 4), opening)
    kept = opening.after[conv].clone()
    following = CausalState(opening.after)
    conv(frames(1, 2, 2, 4, 4, seed=1), following)
    assert torch.equal(opening.after[conv], kept) and not torch.equal(following.after[conv], kept)
    assert opening.leading and not following.leading


def test_time_is_halved_and_doubled_around_the_first_frame():
    x = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 4)
    down = Downsample3D(1, in_time=True)
    down.conv.weight.data.zero_()[..., 0, 0] = 1
    down.conv.bias.data.zero_()
    halved = down(x)
    assert halved.shape == (1, 1, 3, 2, 2) and halved[0, 0, :, 0, 0].tolist() == [0, 1.5, 3.5]
    assert down(x[:, :, :1]).shape[2] == 1
    up = Upsample3D(1, in_time=True)
    up.conv.weight.data.zero_()[..., 1, 1] = 1
    up.conv.bias.data.zero_()
    assert up(halved, CausalState())[0, 0, :, 0, 0].tolist() == [0, 1.5, 1.5, 3.5, 3.5]
    later = up(halved, CausalState({up: halved}))
    assert later.shape == (1, 1, 6, 4, 4), "later chunks have no frame that stands alone"


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("leading", [True, False])
def test_upsampling_is_nearest_neighbour_then_a_convolution(leading, grad):
    """This holds for the computation by pixels and for that by phases of the doubled grid."""
    torch.manual_seed(0)
    up, x = Upsample3D(3, in_time=True).requires_grad_(False), frames(2, 3, 3, 4, 5)
    times = [0, 1, 1, 2, 2] if leading else [0, 0, 1, 1, 2, 2]
    large = F.interpolate(x[:, :, times], scale_factor=(1, 2, 2), mode="nearest")
    expected = torch.stack([up.conv(frame) for frame in large.unbind(2)], dim=2)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(up(x, CausalState() if leading else CausalState({up: x})), expected)


@pytest.mark.parametrize("at_a_time", [0, 1500, 2500])  # rows: 2, 3 and 5 of 11; doubled frames: 1, 1 and 2 of 3
def test_large_frames_go_strip_by_strip_to_the_same_numbers(monkeypatch, at_a_time):
    torch.manual_seed(0)
    conv, up = CausalConv3d(6, 4, 3).double(), Upsample3D(4, in_time=True).double()
    x = frames(2, 6, 3, 11, 7).double()

    def run():
        return up(conv(x, CausalState()), CausalState())
    with torch.no_grad():
        expected = run()
        monkeypatch.setattr(convolution, "ELEMENTS_AT_A_TIME", at_a_time)
        monkeypatch.setattr(convolution, "MIN_ROWS", 2)
        strips = run()
    torch.testing.assert_close(strips, expected)
    assert strips.is_contiguous(memory_format=torch.channels_last_3d) == expected.is_contiguous(
        memory_format=torch.channels_last_3d)
    torch.testing.assert_close(run(), expected)  # with gradients the frames are not split


def test_what_is_left_to_the_next_chunk_holds_no_more_than_its_frames():
    past, conv = CausalState(), CausalConv3d(2, 3, 3)
    conv(frames(1, 2, 8, 4, 4), past)
    assert past.after[conv].untyped_storage().nbytes() == 2 * 2 * 4 * 4 * 4


def test_a_chunk_keeps_only_frames_that_are_still_to_be_read():
    """The last chunk keeps nothing, and what a chunk takes over is released unless its giver still holds it."""
    conv, left = CausalConv3d(2, 3, 3), CausalState()
    conv(frames(1, 2, 4, 4, 4), left)
    kept, reference = dict(left.after), weakref.ref(left.after[conv])
    closing = CausalState(left.after, closing=True)
    conv(frames(1, 2, 4, 4, 4), closing)
    assert not closing.after and left.after.keys() == kept.keys()
    del left, kept
    assert reference() is None
