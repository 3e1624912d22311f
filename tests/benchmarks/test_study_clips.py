"""Tests of the features of clips and of comparisons between cells, with known differences."""
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.studies import clips as clips_module
from benchmarks.studies.clip_features import UNITS, clip_features
from benchmarks.studies.clips import Clips, mean_of, measured, read_clips, write_clips
from benchmarks.studies.comparisons import Comparison, compared, told_apart
from benchmarks.studies.grid import Cell
from common.errors import DataError
from tools.shapes_world import Combination, all_combinations, render

GROUP = tuple(all_combinations()[::27])


def features_of(combination):
    values = clip_features(render(combination, np.random.default_rng(3)))
    return dict(zip(UNITS, values * np.array(list(UNITS.values())), strict=True))


def test_features_are_those_that_the_clip_was_drawn_with():
    moving = features_of(Combination("red", "square", "moves left", "gray"))
    assert 1.1 <= -moving["velocity_x"] <= 1.8 and abs(moving["velocity_y"]) < 0.01 and moving["wander"] < 0.1
    assert moving["compact"] == pytest.approx(3 / np.pi, abs=0.01) and abs(moving["lopsided"]) < 0.01
    assert [moving[name] for name in ("red", "green", "blue")] == pytest.approx([230, 40, 40], abs=6)
    assert moving["background"] == 90 and abs(moving["growth"]) < 0.01
    growing = features_of(Combination("white", "circle", "grows", "black"))
    assert growing["growth"] > np.log(1.6) - 0.02 and growing["compact"] == pytest.approx(1, abs=0.01)
    assert features_of(Combination("blue", "triangle", "moves up", "black"))["lopsided"] < -0.4


def test_features_of_clips_without_an_object_are_numbers():
    for empty in (np.zeros((17, 64, 64, 3)), np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3))):
        assert np.isfinite(clip_features(empty)).all()


@pytest.fixture
def data(monkeypatch):
    """A function that draws Gaussian features like those that replace the data's."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(len(GROUP), 40, len(UNITS)))
    monkeypatch.setattr(clips_module, "rendered_features", lambda combinations: whole)

    def draw(repeats, shift=0.0, right=1.0):
        features = rng.normal(size=(len(GROUP), repeats, len(UNITS))) + shift
        return Clips(GROUP, np.repeat(rng.random((len(GROUP), repeats, 1)) < right, 4, axis=2), features)
    return draw


def test_measures_of_a_cell(data):
    like, shifted = measured(data(30)), measured(data(30, shift=1.0))
    assert like["accuracy"] == 1 and like["diversity"] == pytest.approx(1, abs=0.1)
    assert like["distance_low"] <= like["distance"] <= like["distance_high"] and like["distance"] < 1
    assert shifted["distance"] == pytest.approx(np.sqrt(len(UNITS)), rel=0.1)


def test_one_video_without_an_object_does_not_outweigh_the_others(data):
    clips = data(30)
    clips.features[0, 0] = 1e6
    assert measured(clips)["distance"] < 2


def test_a_better_cell_is_found_better_and_an_equal_one_not(data):
    cells = [Cell("Euler", "table", name, 6, 0) for name in ("plain", "better", "same")]
    clips = dict(zip(cells, (data(10, 0.5, right=0.5), data(10), None), strict=True))
    clips[cells[2]] = clips[cells[0]]
    rows = {cell: {"passes": 12} for cell in cells}
    better, same = compared(Comparison("to plain", {"guidance": "plain"}), rows, clips.__getitem__, {})
    assert better["guidance"] == "better / plain" and better["accuracy_low"] > 0 and better["p"] < 0.01
    assert better["distance_high"] < 0
    assert same["accuracy"] == same["distance"] == 0 and same["p"] == 1


def test_all_pairs_at_equal_cost_are_compared_and_counted_where_they_differ(data):
    cells = [Cell(sampler, "table", "plain", steps, 0) for sampler, steps in (("A", 6), ("B", 6), ("C", 3), ("A", 9))]
    budgets = {cell: {12} for cell in cells[:3]} | {cells[3]: {18}}
    rng, same = np.random.default_rng(1), data(20)
    errors = rng.uniform(0.1, 0.3, (len(GROUP), 20))
    clips = {cell: replace(same, numbers={"error": errors * factor * rng.normal(1, 0.01, errors.shape)})
             for cell, factor in zip(cells, (1, 1, 1.1, 1), strict=True)}
    clips[cells[2]].numbers["error"][0] = np.nan  # left out, with its pair
    comparison = Comparison("all", among=["sampler"])
    found = compared(comparison, {cell: {"passes": 12} for cell in cells}, clips.__getitem__, budgets)
    assert [row["sampler"] for row in found] == ["A / B", "A / C", "B / C"]
    assert found[1]["error_high"] < 0 and found[1]["error_p_holm"] < 1e-6 < found[0]["error_p_holm"]
    assert told_apart(comparison, found) == [{"cost": "12 passes", "pairs": 3, "by accuracy": 0, "by solver error": 2}]


def test_further_numbers_of_each_video_are_compared_and_corrected(data):
    cells = [Cell("Euler", "table", name, 6, 0) for name in ("plain", "sharper", "same")]
    overlap = np.random.default_rng(0).uniform(0.8, 0.9, (len(GROUP), 8))
    clips = {cell: replace(data(8), numbers={"edge_overlap": overlap + more})
             for cell, more in zip(cells, (0, 0.02, 0), strict=True)}
    comparison = Comparison("all", among=["guidance"], measures=["edge_overlap"])
    found = compared(comparison, {cell: {"passes": 12} for cell in cells}, clips.__getitem__, {})
    assert found[0]["edge_overlap"] == pytest.approx(-0.02) and found[0]["edge_overlap_high"] < 0
    assert found[1]["edge_overlap_p"] == 1
    assert found[0]["edge_overlap_p_holm"] == pytest.approx(3 * found[0]["edge_overlap_p"])
    assert told_apart(comparison, found)[0]["by edge_overlap"] == 2


def test_means_leave_out_what_is_no_number():
    numbers = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    found = mean_of("error", numbers)
    assert found["error"] == 3 and found["error_low"] <= 3 <= found["error_high"]
    assert np.isnan(mean_of("error", numbers * np.nan)["error"])


def test_tables_of_clips_come_back(data, tmp_path):
    clips = replace(data(3, right=0.5), numbers={"error": np.full((len(GROUP), 3), 0.25)})
    write_clips(tmp_path / "clips.csv", clips)
    back = read_clips(tmp_path / "clips.csv")
    assert back.combinations == clips.combinations and (back.right == clips.right).all()
    assert (back.numbers["error"] == 0.25).all()
    assert back.features == pytest.approx(clips.features, rel=1e-4, abs=1e-4)
    (tmp_path / "clips.csv").write_text("caption,repeat\n")
    with pytest.raises(DataError, match="is not a table of judged videos"):
        read_clips(tmp_path / "clips.csv")
