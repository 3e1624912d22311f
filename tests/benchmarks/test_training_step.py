"""Tests of benchmarks.training_step at a size that takes seconds."""
import pytest

pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")

from benchmarks import training_step
from benchmarks.training_step import LossesDiffer

WORDS = ["--size", "tiny", "--device", "cpu", "--clips", "1", "--repeats", "1", "--pairs"]


def test_steps_are_timed_beside_diffusers_and_memory_beside_the_plan(capsys):
    training_step.main([*WORDS, "float32 / diffusers", "layers computed again / float32"])
    out = capsys.readouterr().out
    lines = [line[2:-2].split(" | ") for line in out.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if line[0] in training_step.SIDES]
    assert [row[0] for row in rows] == ["float32", "diffusers", "layers computed again", "float32"]
    assert rows[1][3].strip() == rows[1][4].strip() == "", "a plan is ours alone"
    assert [float(rows[n][4]) for n in (0, 2, 3)] == pytest.approx([1, 1, 1], abs=0.1)
    assert "float32 / diffusers: " in out and "after 2 steps" in out


def test_nothing_is_reported_of_trainings_that_differ(monkeypatch):
    monkeypatch.setattr(training_step, "LOSS_TOLERANCE", dict.fromkeys(training_step.LOSS_TOLERANCE, 0.0))
    with pytest.raises(LossesDiffer, match="the losses of bfloat16 / float32 differ by .*; nothing is reported"):
        training_step.main([*WORDS, "bfloat16 / float32"])
