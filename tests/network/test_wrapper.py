"""Tests that the conditioning reaches the network's arguments."""
import torch
from torch import nn

from network.compilation import CompiledNetwork
from network.wrapper import IdentityWrapper, OpenAIWrapper


class Recorder(CompiledNetwork, nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, timesteps, context, y=None, ofs=None):
        self.seen = dict(timesteps=timesteps, context=context, y=y, ofs=ofs, x=x)
        return x * self.weight


def test_conditioning_is_handed_on_by_kind():
    network, x, t = Recorder(), torch.randn(2, 3, 4, 2, 2), torch.tensor([1.0, 2.0])
    c = {"crossattn": torch.randn(2, 5, 6), "vector": torch.randn(2, 7), "concat": torch.randn(1, 3, 1, 2, 2).double()}
    out = OpenAIWrapper(network)(x, t, c, ofs=torch.tensor([2.0]))
    assert out.shape == (2, 3, 5, 2, 2) and out.dtype == x.dtype
    assert torch.equal(out[:, :, :4], x) and torch.equal(out[1, :, 4:], c["concat"][0].float())
    assert network.seen["context"] is c["crossattn"] and network.seen["y"] is c["vector"]
    assert network.seen["timesteps"] is t and network.seen["ofs"].item() == 2


def test_without_image_or_labels():
    network, x = Recorder(), torch.randn(1, 3, 4, 2, 2)
    OpenAIWrapper(network)(x, torch.tensor([0.0]), {"crossattn": torch.zeros(1, 1, 1)})
    assert network.seen["x"] is x and network.seen["y"] is None


def test_compiling_keeps_the_keys():
    for wrapper in (IdentityWrapper(Recorder()), OpenAIWrapper(Recorder(), compile_model=True)):
        assert list(wrapper.state_dict()) == ["diffusion_model.weight"]
