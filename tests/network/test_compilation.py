"""Tests of compiled transformers: once for all steps and sizes, and copies of what graphs of the device return."""
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from network.compilation import has_graphs
from tests.dit_models import ROTARY, SINCOS, build, inputs

SIZES = [(3, 4, 8, 8), (2, 4, 4, 6), (3, 4, 4, 8)]  # height and width are equal at first
WHOLE, LAYERS = 1, 2  # graphs: of the network; of all layers but the last, and of the last


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@torch.no_grad()
def graphs_after_sizes(how, dynamic, positions):
    """Return the number of graphs after three steps of each size, which must give what the network gives uncompiled."""
    network, same = (build(positions, num_layers=3, latent_height=8) for _ in range(2))
    counter, counts = CompileCounter(), []
    network.compile_as(how, dynamic, backend=counter)
    for latent in SIZES:
        for step in range(3):
            given = inputs(latent=latent, seed=step)
            torch.testing.assert_close(network(*given), same(*given), atol=1e-5, rtol=1e-5)
        counts.append(counter.frame_count)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("how, dynamic, positions, graphs", [
    ("regional", True, ROTARY, [LAYERS] * 3), (True, True, ROTARY, [WHOLE] * 3),
    ("regional", False, SINCOS, [LAYERS, 2 * LAYERS, 2 * LAYERS])])
def test_steps_compile_nothing_again_and_sizes_only_if_they_are_not_dynamic(how, dynamic, positions, graphs):
    assert graphs_after_sizes(how, dynamic, positions) == graphs


@pytest.mark.slow
@torch.no_grad()
def test_with_graphs_each_size_is_one_graph_which_writes_into_no_input():
    outputs = []  # of each graph; an input that is written comes back as another output

    def backend(graph, given):
        outputs.append(len(list(graph.graph.nodes)[-1].all_input_nodes))
        return graph.forward
    network, same = (build(latent_height=8) for _ in range(2))
    network.compile(backend=aot_autograd(fw_compiler=backend), dynamic=False)
    for latent in SIZES:
        for step in range(2):
            given = inputs(latent=latent, seed=step)
            torch.testing.assert_close(network(*given), same(*given), atol=1e-5, rtol=1e-5)
    assert outputs == [1, 1, 1]


def test_what_a_graph_returned_stays_when_it_runs_again(monkeypatch):
    network, memory, asked = build(), torch.zeros(2), []

    def compiled(run, **settings):
        asked.append(settings)
        return lambda x: memory.copy_(x)  # a graph writes its output to the same place each time
    monkeypatch.setattr(torch, "compile", compiled)
    network.compile_as("max")
    first, second = network(torch.ones(2)), network(torch.full((2,), 2.0))
    assert first.tolist() == [1, 1] and second.tolist() == [2, 2]
    assert asked == [{"backend": "inductor", "dynamic": False, "mode": "max-autotune"}]
    assert torch._inductor.list_mode_options("max-autotune")["triton." + "cu" + "dagraphs"], "the mode has graphs"


@pytest.mark.parametrize("module, there", [(SimpleNamespace(graph_pool_handle=None), True), (SimpleNamespace(), False)])
def test_graphs_are_there_if_the_devices_module_has_a_pool_for_them(monkeypatch, module, there):
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert has_graphs(torch.device("meta")) == there and not has_graphs(torch.device("cpu"))
