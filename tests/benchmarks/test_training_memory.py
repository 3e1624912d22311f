"""Tests of benchmarks.training_memory at a size that takes seconds."""
import pytest

from benchmarks import training_memory
from common.console import run

SMALL = ["--device", "cpu", "--layers", "1", "--width", "64", "--latents", "3", "8", "8", "--clips", "2"]


def test_tensors_are_as_many_as_the_plan_counts(capsys):
    training_memory.main([*SMALL, "--ways", "float32", "bfloat16, LoRA, layers computed again"])
    rows = [line[2:-2].split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 x 64")]
    assert [row[:2] for row in rows] == [["1 x 64, 3 x 8 x 8, 2", way] for way in (
        "float32", "bfloat16, LoRA, layers computed again")]
    assert [float(row[4]) for row in rows] == pytest.approx([1, 1], abs=0.15)


@pytest.mark.parametrize("words, told", [
    (SMALL[:-2], "give all four, or none"), ([*SMALL, "--width", "65"], "--width 65 has to be a multiple of 64"),
    ([*SMALL, "--latents", "3", "8", "7"], "even"), ([*SMALL, "--clips", "0"], "above 0")])
def test_a_size_that_no_model_has_is_one_line(words, told, capsys):
    try:
        code = run(training_memory.main, words)
    except SystemExit as stop:  # of the parser
        code = stop.code
    assert code == 2 and told in capsys.readouterr().err
