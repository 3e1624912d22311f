"""Tests of weights that are copied ahead of their use: order, waits, reused buffers, and calls out of order."""
import pytest
import torch
from torch import nn

from memory import offload, prefetch
from memory.offload import TEXT, Offload, PrefetchedWeights
from memory.prefetch import CopyStream
from tests.pretend_streams import Event, Streams

CPU = torch.device("cpu")
SIZES = (5, 6, 7, 8, 9, 5)


@pytest.fixture
def streams(monkeypatch):
    """Two streams of a pretend device, which keeps its tensors in CPU memory."""
    streams = Streams()
    monkeypatch.setattr(offload, "copy_stream", lambda device: CopyStream(device, streams.copying))
    monkeypatch.setattr(prefetch, "computing", lambda device: streams.computing)
    return streams


def layers(sizes=SIZES):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)))


@torch.no_grad()
def run(model, streams, passes=3):
    """Run the offloaded model, and check that it gives what it gave before it was offloaded."""
    x = torch.randn(passes, 2, SIZES[0])
    expected = [model(part) for part in x]
    offloaded = Offload({"transformer": [model]}, CPU, by_layer=["transformer"])
    with streams:
        out = [model(part) for part in x]
    for one, same in zip(out, expected, strict=True):
        assert torch.equal(one, same)
    return offloaded


def copied_before_products(streams):
    """Return, for each layer that computed, how many layers' copies had been started before."""
    copies, counts = 0, []
    for stream, operation, _ in streams.log:
        copies += (stream, operation) == ("copying", "copy_")
        counts += [copies // 2] if operation == "addmm" else []  # a layer has a matrix and a bias
    return counts


def test_two_layers_are_on_their_way_while_one_computes(streams):
    run(layers(), streams)
    counts = copied_before_products(streams)
    assert counts[:5] == [1, 2, 3, 4, 5], "the order is not known yet"
    assert counts[5:] == [number + 3 for number in range(5, 15)], "its own, the next two, also those of the next pass"
    assert not streams.races
    assert {stream for stream, operation, _ in streams.log if operation == "copy_"} == {"copying"}


def test_buffers_are_used_again(streams):
    def allocated(passes):
        streams.log.clear()
        run(layers(), streams, passes)
        return sum(operation == "empty_like" for _, operation, _ in streams.log)
    assert allocated(2) == allocated(6) == 2 * len(SIZES[1:])


@pytest.mark.parametrize("missing", ["arrival", "use", "memory"])
def test_a_wait_that_is_missing_is_found(streams, monkeypatch, missing):
    if missing == "arrival":  # a layer computes before its weights have arrived
        monkeypatch.setattr(CopyStream, "wait", lambda self, copies: None)
    elif missing == "use":  # a copy goes into a buffer that a layer still computes with
        give_back = CopyStream.give_back

        def too_early(self, copies):
            give_back(self, copies)
            for kind, free in self._free.items():
                self._free[kind] = [(buffer, Event({})) for buffer, _ in free]
        monkeypatch.setattr(CopyStream, "give_back", too_early)
    else:  # a copy goes into new memory, where a tensor may lie that queued work still needs
        monkeypatch.setattr(streams.copying, "wait_event", lambda event: None)
    run(layers(), streams)
    assert streams.races


@torch.no_grad()
def test_layers_in_another_order_compute_the_same_and_keep_nothing(streams):
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = layers((5, 5, 5, 5, 5, 5))

        def forward(self, x, chosen):
            for index in chosen:
                x = self.all[index](x)
            return x

    model, x = Skipping(), torch.randn(1, 5)
    orders = [(0, 1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 4), (0, 4), (3, 3, 1), (0, 1, 2, 3, 4), (4, 3, 2, 1, 0)]
    expected = [model(x, order) for order in orders]
    offloaded = Offload({"transformer": [model], "VAE decoder": [nn.Linear(5, 5)]}, CPU, by_layer=["transformer"])
    line = offloaded._courses["transformer"].line
    with streams:
        for order, same in zip(orders, expected, strict=True):
            assert torch.equal(model(x, order), same)
            assert sum(weights._coming is not None for weights in offloaded._layers["transformer"]) <= 2
        offloaded.bring("VAE decoder")
    assert not streams.races and not line._free
    assert all(weights._coming is None for weights in offloaded._layers["transformer"]), "another part computes now"


def test_a_layer_that_fails_is_freed(streams):
    model = layers()
    offloaded = run(model, streams)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model(torch.zeros(1, 99))
    assert all(weights._waiting is None for weights in offloaded._layers["transformer"])


def test_what_comes_once_or_is_quantized_or_has_no_streams_is_copied_when_called(streams, monkeypatch):
    class Quantized(torch.Tensor):
        pass

    def ahead(name="transformer", model=None):
        offloaded = Offload({name: [model or layers()]}, CPU, by_layer=[name])
        return {type(weights) for weights in offloaded._layers[name]} == {PrefetchedWeights}
    quantized = layers()
    for layer in quantized:
        layer.weight = nn.Parameter(layer.weight.data.as_subclass(Quantized), requires_grad=False)
    assert ahead() and not ahead(TEXT) and not ahead(model=quantized)
    monkeypatch.undo()
    assert not ahead() and prefetch.copy_stream(torch.device("meta")) is None
