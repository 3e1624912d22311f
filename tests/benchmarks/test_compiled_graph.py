"""Tests of the compiled layers: graphs, kernels and bytes."""
import pytest
import torch

from benchmarks import compiled_graph
from benchmarks.compiled_graph import least_bytes, our_graphs
from benchmarks.random_models import SIZES


@pytest.mark.slow
def test_a_compiled_layer_is_one_graph_of_few_kernels_near_the_least_traffic():
    size = SIZES["small"]
    graphs = our_graphs(size, torch.bfloat16)
    assert len(graphs) == 2, "one for all layers but the last, and one for the last"
    assert [graph.kernels <= most for graph, most in zip(graphs, (17, 19), strict=True)] == [True, True], graphs
    assert graphs[0].bytes < 1.25 * least_bytes(size, torch.bfloat16)


@pytest.mark.slow
def test_both_sides_are_told(capsys):
    compiled_graph.main(["--size", "tiny", "--dtype", "fp32"])
    out = capsys.readouterr().out
    told = dict(zip(compiled_graph.COLUMNS, out.strip().splitlines()[-1].strip("| ").split(" | "), strict=True))
    assert told["graphs"] == "2" and int(told["kernels, ours"]) < int(told["kernels, diffusers"])
