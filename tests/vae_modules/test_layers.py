import torch

from vae_modules.layers import CausalConv3d, Downsample3D, Past, SpatialNorm, Upsample3D, resize_causal


def frames(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_convolution_in_chunks_equals_the_whole():
    torch.manual_seed(0)
    conv, x = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 7, 4, 4)
    whole = conv(x, Past())
    past, pieces = Past(), []
    for chunk in x.split([1, 3, 1, 2], dim=2):
        pieces.append(conv(chunk, past))
        past = Past(past.after)
    torch.testing.assert_close(torch.cat(pieces, 2), whole)


def test_convolution_never_looks_ahead():
    torch.manual_seed(0)
    conv, x = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 6, 4, 4)
    changed = x.clone()
    changed[:, :, 4:] = 9
    a, b = conv(x, Past()), conv(changed, Past())
    torch.testing.assert_close(a[:, :, :4], b[:, :, :4])
    assert not torch.isclose(a[:, :, 4], b[:, :, 4]).any()


def test_before_the_first_frame_it_stands_still():
    torch.manual_seed(0)
    conv, first = CausalConv3d(2, 3, 3).requires_grad_(False), frames(1, 2, 1, 4, 4)
    still = conv(first.expand(-1, -1, 5, -1, -1), Past())
    torch.testing.assert_close(conv(first, Past()), still[:, :, -1:])


def test_the_past_of_a_chunk_stays_as_it_is():
    torch.manual_seed(0)
    conv = CausalConv3d(2, 2, 3).requires_grad_(False)
    opening = Past()
    conv(frames(1, 2, 3, 4, 4), opening)
    kept = opening.after[conv].clone()
    following = Past(opening.after)
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
    assert up(halved, Past()).shape == (1, 1, 5, 4, 4)
    assert up(halved, Past({up: halved})).shape == (1, 1, 6, 4, 4), "later chunks have no frame that stands alone"
    assert resize_causal(halved, (5, 2, 2), lone_first=True)[0, 0, :, 0, 0].tolist() == [0, 1.5, 1.5, 3.5, 3.5]


def test_the_norm_is_conditioned_where_the_latent_is():
    """Convolving the small latent and resizing equals convolving the resized latent."""
    torch.manual_seed(0)
    norm = SpatialNorm(4, 2, groups=2).requires_grad_(False)
    f, zq, past = frames(1, 4, 5, 4, 4), frames(1, 2, 3, 2, 2, seed=1), Past()
    large = resize_causal(zq, (5, 4, 4), lone_first=True)
    expected = norm.norm_layer(f) * norm.conv_y(large, past) + norm.conv_b(large, past)
    torch.testing.assert_close(norm(f, zq, past), expected)
