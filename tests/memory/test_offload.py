"""Tests of offloaded weights: their order of arrival and return, and that all needed weights arrive."""
import copy
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from common.errors import ConfigError
from diffusion_video import DiffusionEngine
from memory import offload
from memory.offload import TEXT, Offload, offload_engine

DEVICE = torch.device("cpu")


@pytest.fixture
def moves(monkeypatch):
    """The sizes of tensors copied to the device, in order."""
    seen = []

    def copied(data, device):
        seen.append(data.numel())
        return data.clone()
    monkeypatch.setattr(offload, "copied", copied)
    return seen


def test_a_part_comes_when_it_is_called_and_goes_when_another_is(moves):
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 4, bias=False)
    home = first.weight.data_ptr()
    Offload({"first": [first], "second": [second]}, DEVICE)
    x = torch.ones(1, 2)
    first(x)
    assert moves == [6] and first.weight.data_ptr() != home
    first(x)
    assert moves == [6], "it is there"
    second(first(x))
    assert moves == [6, 12] and first.weight.data_ptr() == home
    first(x)
    assert moves == [6, 12, 6]


def test_layers_come_one_by_one_and_the_rest_with_its_part(moves):
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(2, 5)
            self.table = nn.Parameter(torch.ones(5))
            self.one, self.two = nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x):
            y = self.one(self.words(x) + self.table)
            assert self.one.weight.data_ptr() == home, "gone as soon as it has computed"
            return self.two(y)

    part = Part()
    home = part.one.weight.data_ptr()
    moved = Offload({"part": [part]}, DEVICE, by_layer=["part"])
    part(torch.tensor([1]))
    assert moves == [5, 10, 20, 12]
    part(torch.tensor([1]))
    assert moves == [5, 10, 20, 12, 20, 12]
    moved.drop("part")
    assert sum(p.numel() for p in part.parameters()) == 0


def test_layers_that_come_often_wait_in_pinned_memory(moves, monkeypatch):
    """Once pinned, layers are copied from pinned memory. The text encoder's layers and whole parts are not pinned."""
    pins = []

    def pinned(data):
        pins.append(data.clone())
        return pins[-1]
    monkeypatch.setattr(offload, "pinned", pinned)
    parts = {name: [nn.Linear(2, 3, bias=False)] for name in (TEXT, "transformer", "VAE decoder")}
    Offload(parts, torch.device("meta"), by_layer=[TEXT, "transformer"])
    for _ in range(2):
        for (layer,) in parts.values():
            layer(torch.ones(1, 2))
    layer, = parts["transformer"]
    assert len(pins) == 1 and layer.weight.data_ptr() == pins[0].data_ptr()
    assert moves == [6] * 6


def test_memory_that_cannot_be_pinned_is_told(monkeypatch):
    def refuse(self):
        raise RuntimeError("out of memory\nand more")
    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    with pytest.raises(ConfigError, match=r"args.offload is sequential.*\(out of memory\)"):
        offload.pinned(torch.ones(2))


def test_weights_that_two_modules_share_travel_once(moves):
    both = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    both[1].weight = both[0].weight
    Offload({"both": [both]}, DEVICE)
    both(torch.ones(1, 2))
    assert moves == [4] and both[1].weight is both[0].weight


@pytest.fixture(scope="module")
def engine(small_model):
    config = OmegaConf.load(small_model / "i2v.yaml").model
    torch.manual_seed(3)
    engine = DiffusionEngine(SimpleNamespace(model_config=config, fp16=False, bf16=False, device="cpu")).eval()
    for parameter in engine.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return engine


def make_video(engine):
    cond, uncond = engine.conditioner.get_unconditional_conditioning({"txt": ["a red circle"]}, {"txt": [""]})
    image = engine.encode_image(torch.zeros(1, 3, 32, 32), 5, torch.Generator().manual_seed(1))
    cond["concat"] = uncond["concat"] = image
    latents = engine.sample(cond, uncond, 1, (5, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    return engine.decode_first_stage(latents.transpose(1, 2))


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_the_video_is_the_same_and_nothing_computes_that_was_not_brought(engine, how, monkeypatch):
    expected = make_video(engine)
    engine = copy.deepcopy(engine)
    tensors = {t.data_ptr(): t for t in (*engine.parameters(), *engine.buffers()) if t.is_floating_point()}
    good = {place: tensor.data.clone() for place, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.data.fill_(float("nan"))  # computing with offloaded weights would show
    monkeypatch.setattr(offload, "copied", lambda data, device: good.get(data.data_ptr(), data))
    offload_engine(engine, how, DEVICE)
    assert engine.device == DEVICE and torch.equal(make_video(engine), expected)
    engine.offload.drop(TEXT)
    assert sum(p.numel() for p in engine.conditioner.parameters()) == 0
