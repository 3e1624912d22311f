import torch

from common.tensors import draw_noise


def test_noise_of_a_seed_does_not_depend_on_the_order_in_memory():
    """Encoders return another order without gradients than with them; a seed must not make two videos of that."""
    x = torch.zeros(2, 3, 4, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    drawn = []
    for like in (x, last, last[:, :2].repeat(1, 2, 1, 1, 1)[:, :3]):
        torch.manual_seed(0)
        drawn.append(draw_noise(like))
    assert all(torch.equal(each, drawn[0]) for each in drawn) and drawn[0].unique().numel() == x.numel()
