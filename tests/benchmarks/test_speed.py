"""Tests of the comparison with diffusers at a size that takes seconds."""
from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")

from benchmarks import speed, speed_measure
from benchmarks.memory_measure import peak_memory
from benchmarks.random_models import SIZES, our_network
from benchmarks.setting import Setting
from benchmarks.speed_measure import OutputsDiffer, Pair, count_flops, time_pair
from common.cpu_operations import convolution, linear_gelu_tanh
from common.errors import ConfigError
from common.patches import patch_grid
from network.attention import attention

CPU = torch.device("cpu")


def test_every_part_is_computed_alike_by_both(capsys):
    """If one part differs, OutputsDiffer is raised before a table is written."""
    speed.main(["all", "--size", "tiny", "--device", "cpu", "--repeats", "1"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    table = {row[0].strip(): dict(zip(speed.COLUMNS, (cell.strip() for cell in row), strict=True)) for row in rows[2:]}
    assert list(table) == list(speed.PARTS)
    assert all(float(row["difference"]) < 1e-4 for row in table.values())
    assert float(table["decode"]["TFLOP, ours"]) < float(table["decode"]["TFLOP, diffusers"])


@pytest.mark.parametrize("preset,latent", [("cogvideox_2b", (3, 16, 8, 8)), ("cogvideox1.5_5b", (4, 16, 8, 8))])
@torch.no_grad()
def test_the_other_models_are_compared_alike(preset, latent):
    tiny = SIZES["tiny"]
    size = replace(tiny, preset=preset, latent=latent, network=tiny.network | {"num_frames": 4 * latent[0] - 3})
    assert size.padding == latent[0] - 3
    for part in ("step", "whole"):
        assert time_pair(speed.PARTS[part](Setting(size, CPU, torch.float32)), 1, CPU).difference < 1e-4


@pytest.mark.parametrize("size, tokens, grid", [
    ("small", 1280, (5, 16, 16)), ("small", 700, (5, 11, 13)), ("1.5-5b", 1100, (11, 10, 10)), ("tiny", 1, (3, 1, 1))])
def test_a_size_can_have_other_layers_channels_and_tokens(size, tokens, grid):
    changed = SIZES[size].shaped(layers=3, width=192, tokens=tokens)
    network = our_network(changed.model(), torch.device("meta"), torch.float32)
    assert (len(network.transformer.layers), network.hidden_size) == (3, 192)
    assert patch_grid(torch.empty(1, *changed.latent, device="meta"), network.patch_size) == grid
    with pytest.raises(ConfigError, match="--width 100 .* nearest that does: 128"):
        SIZES[size].shaped(width=100)


def test_nothing_is_told_of_computations_that_differ():
    ones = torch.ones(3)
    with pytest.raises(OutputsDiffer, match="nothing is reported"):
        time_pair(Pair(lambda: ones, lambda: ones * 1.001), 1, CPU)
    with pytest.raises(OutputsDiffer, match="shapes"):
        time_pair(Pair(lambda: ones, lambda: ones[:2]), 1, CPU)
    with pytest.raises(OutputsDiffer):
        time_pair(Pair(lambda: ones, lambda: ones * torch.nan), 1, CPU)


def test_sides_take_turns_and_who_begins_alternates():
    calls = []
    pair = Pair(*(lambda side=side: calls.append(side) or torch.ones(1) for side in "od"))
    timing = time_pair(pair, 3, CPU)
    assert "".join(calls) == 3 * "od" + "od" + "do" + "od", "operations, memory and tensors are counted first"
    assert len(timing.ours) == len(timing.diffusers) == 3 and timing.difference == 0


def test_the_first_compiled_run_of_each_side_is_timed(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run: run)
    calls = []
    pair = Pair(*(lambda side=side: calls.append(side) or torch.ones(1) for side in "od"))
    timing = time_pair(pair, 1, CPU, "cpu", compiled=True)
    assert "".join(calls) == "od" + "od" + 2 * "od" + "od", "of a compiled run the memory and tensors are those counted"
    assert timing.compilation.keys() == {"ours", "diffusers"}
    assert time_pair(pair, 1, CPU).compilation == {}


def test_attention_products_and_convolutions_are_counted():
    x = torch.randn(1, 2, 16, 32)
    weight = torch.randn(5, 2, 3, 3)
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.no_grad():
        assert count_flops(lambda: attend(x, x, x)) == 2 * 2 * 2 * 16 * 16 * 32
        assert count_flops(lambda: x @ x.transpose(2, 3)) == 2 * 2 * 16 * 16 * 32
        assert count_flops(lambda: convolution(x, weight, None, (1, 1))) == 2 * 5 * 2 * 9 * 16 * 32
        low = x.bfloat16()
        assert count_flops(lambda: attention(low, low, low)) == 2 * 2 * 2 * 16 * 16 * 32
        assert count_flops(lambda: linear_gelu_tanh(low, low[0, 0, :8], None)) == 2 * 32 * 32 * 8


def test_what_was_counted_first_is_compiled_afterwards():
    graphs = []
    compiled = torch.compile(lambda x: x @ x, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert count_flops(lambda: compiled(torch.ones(4, 4))) == 2 * 4 * 4 * 4 and not graphs
    compiled(torch.ones(4, 4))
    assert len(graphs) == 1


def test_memory_is_what_a_call_needs_beside_what_was_there():
    there = torch.ones(40 * 2**18)
    peak = peak_memory(lambda: (torch.ones(80 * 2**18) + 1).sum() + there.sum(), CPU)
    assert 150 * 2**20 < peak < 180 * 2**20


def test_memory_of_tensors_is_what_they_take_at_a_time():
    timing = time_pair(Pair(lambda: (torch.ones(2**20) + 1).sum(), lambda: torch.ones(2**20).sum() + 2**20), 1, CPU)
    assert timing.tensors["ours"] == pytest.approx(2 * 2**22, abs=100)
    assert timing.tensors["diffusers"] == pytest.approx(2**22, abs=100)


def test_a_note_says_on_what_and_how(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed_measure, "from_repository", lambda path: tmp_path / path)
    monkeypatch.setattr(speed_measure, "PRODUCT_SIZE", {"cpu": 64})
    speed.main(["transformer", "--size", "tiny", "--device", "cpu", "--repeats", "1", "--save"])
    note, = (tmp_path / "docs/benchmarks").glob("*_speed_transformer_tiny_fp32.md")
    text = note.read_text()
    assert "python -m benchmarks.speed transformer --size tiny" in text
    assert torch.__version__ in text and "TFLOP/s" in text and "| transformer |" in text
