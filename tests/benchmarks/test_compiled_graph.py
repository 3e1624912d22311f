"""Tests of the compiled layers: graphs, kernels and bytes."""
import pytest

from benchmarks import compiled_graph
from benchmarks.compiled_graph import our_graphs


@pytest.mark.slow
def test_a_compiled_layer_is_one_graph_of_few_kernels_near_the_least_traffic(capsys, monkeypatch):
    found = []
    monkeypatch.setattr(compiled_graph, "our_graphs", lambda *given: found.append(our_graphs(*given)) or found[0])
    compiled_graph.main(["--size", "small", "--dtype", "bf16"])
    (graphs,) = found
    assert len(graphs) == 2, "one for all layers but the last, and one for the last"
    assert [graph.kernels <= most for graph, most in zip(graphs, (17, 19), strict=True)] == [True, True], graphs
    last = capsys.readouterr().out.strip().splitlines()[-1].strip("| ").split(" | ")
    told = dict(zip(compiled_graph.COLUMNS, last, strict=True))
    assert told["graphs"] == "2" and int(told["kernels, ours"]) == graphs[0].kernels < int(told["kernels, diffusers"])
    assert float(told["ours / least"]) < 1.25
