"""Tests of the pictures of how a model learns numbers and relations."""
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import numbers_plots
from benchmarks.numbers_judge import RESULTS, read_results, write_results
from benchmarks.scenes_judge import Judged
from common.console import run
from tools.grammars import scenes_of


@pytest.fixture
def results():
    """Numbers that are all 1 too large, and relations that are right where training may show them; one lost clip."""
    found = {}
    for name in ("numbers", "relations"):
        scenes = [scene for scene, _ in [*scenes_of(name, False, 6, [1, 0, 0]), *scenes_of(name, True, 8, [1, 0, 1])]]
        found[name] = [(scene, Judged({"relation": not scene.unseen}, {
            number: getattr(scene, number, 0) + 1.0 for number in ("radius", "x", "y", "speed")})) for scene in scenes]
    scene, one = found["numbers"][0]
    found["numbers"][0] = scene, replace(one, numbers=dict.fromkeys(one.numbers, float("nan")), lost=True)
    return found


def test_results_are_read_back_as_they_were_written(results, tmp_path):
    write_results(tmp_path / RESULTS, results["numbers"])
    read = read_results(tmp_path / RESULTS)
    assert [scene for scene, _ in read] == [scene for scene, _ in results["numbers"]]
    assert read[0][1].lost and np.isnan(read[0][1].numbers["x"]) and read[1][1] == results["numbers"][1][1]


def test_values_never_seen_are_apart_from_seen_ones(results):
    seen, unseen = (numbers_plots.points(results["numbers"], "radius")[label] for label in ("seen", "never seen"))
    assert len(seen[0]) == 6 and set(unseen[0]) <= {8, 11} and len(unseen[0]) == 2
    assert [measured - asked for asked, measured in zip(*unseen, strict=True)] == [1, 1]
    assert numbers_plots.shares(results["relations"]) == {"seen": 1.0, "never seen": 0.0}


@pytest.mark.slow
def test_both_pictures_are_drawn(results, tmp_path, capsys):
    for step in ("100", "200"):
        for name, found in results.items():
            (tmp_path / step / name).mkdir(parents=True)
            write_results(tmp_path / step / name / RESULTS, found)
    (tmp_path / "150" / "numbers").mkdir(parents=True)
    write_results(tmp_path / "150" / "numbers" / RESULTS, results["numbers"])
    out, scatter = tmp_path / "curve.png", tmp_path / "scatter.png"
    folders = [str(tmp_path / step) for step in ("100", "150", "200")]
    assert run(numbers_plots.main, [*folders, "--out", str(out), "--scatter", str(scatter)]) == 0
    assert out.stat().st_size > 5000 and scatter.stat().st_size > 5000
    (tmp_path / "400" / "relations").mkdir(parents=True)
    write_results(tmp_path / "400" / "relations" / RESULTS, results["relations"])
    assert run(numbers_plots.main, [str(tmp_path / "400"), "--out", str(out), "--scatter", str(scatter)]) == 2
    assert "400 steps has no judged captions with numbers" in capsys.readouterr().err
    assert run(numbers_plots.main, [str(tmp_path), "--out", str(out)]) == 2
    assert "must be the number of steps" in capsys.readouterr().err
    assert run(numbers_plots.main, [str(tmp_path / "300"), "--out", str(out)]) == 2
    assert "there is no" in capsys.readouterr().err
