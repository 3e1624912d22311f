"""Tests of errors by degree, on rendered clips with known faults."""
import json

import numpy as np
import pytest

from benchmarks.shapes_errors import UNITS, errors_of, lab, main, summary
from common.console import run
from media.videos import write_video
from tools.shapes_world import PALETTE, Combination, all_combinations, coverage_of, render

MOVES = Combination("red", "square", "moves right", "black")


def drawn(center, radius, color="red", shape="square"):
    """Return a clip on black of a shape with center (17, 2) and radius (17,)."""
    coverage = coverage_of(shape, center, radius)[..., None]
    return np.rint(coverage * np.array(PALETTE[color], float)).astype(np.uint8)


def course(speed=1.5, wander=0.0):
    """Return the centres of a square that moves right, off its course by `wander` in turn."""
    times = np.arange(17)
    return np.column_stack([16 + speed * times, 30 + wander * (-1.0) ** times])


@pytest.mark.parametrize("combination", all_combinations()[::31], ids=lambda one: one.caption)
def test_what_the_world_draws_has_no_errors(combination):
    found = errors_of(render(combination, np.random.default_rng(1)), combination)
    assert list(found) == list(UNITS)
    assert found["place_error"] < 0.05 and found["speed_error"] < 0.02 and found["size_error"] < 0.05
    assert found["color_error"] < 0.5 and found["edge_overlap"] > 0.985


def test_each_fault_shows_in_its_own_error():
    radius = np.full(17, 9.0)
    right = errors_of(drawn(course(), radius), MOVES)
    assert errors_of(drawn(course(wander=0.5), radius), MOVES)["place_error"] == pytest.approx(0.5, abs=0.04)
    assert errors_of(drawn(course(2.1), radius), MOVES)["speed_error"] == pytest.approx(0.3, abs=0.02)
    swinging = errors_of(drawn(course(), radius + 0.6 * (-1.0) ** np.arange(17)), MOVES)
    assert swinging["size_error"] == pytest.approx(0.6, abs=0.05)
    assert swinging["place_error"] == pytest.approx(right["place_error"], abs=0.03)
    apart = np.linalg.norm(np.subtract(*(lab(np.array(PALETTE[name], float)) for name in ("red", "purple"))))
    assert errors_of(drawn(course(), radius, "purple"), MOVES)["color_error"] == pytest.approx(apart, rel=0.01)
    round_one = errors_of(drawn(course(), radius, shape="circle"), MOVES)
    assert round_one["edge_overlap"] < 0.9 < right["edge_overlap"]
    growing = MOVES.__class__("red", "square", "grows", "black")
    assert errors_of(drawn(course(), radius), growing)["speed_error"] == pytest.approx(1.5, abs=0.02)


def test_an_object_that_flickers_has_an_error_of_colour_and_none_of_size():
    clip = drawn(course(), np.full(17, 9.0)).astype(np.float32)
    clip[1::2] *= 0.6
    found = errors_of(clip, MOVES)
    assert found["color_error"] > 15
    assert found["size_error"] < 0.05 and found["place_error"] < 0.05 and found["edge_overlap"] > 0.985


@pytest.mark.parametrize("shape", ["square", "circle"])
def test_blur_moves_nothing(shape):
    kernel = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.2**2))
    clip = drawn(course(1.37) + [2.2, 0], np.full(17, 9.0), shape=shape).astype(np.float32)
    for axis in (1, 2):
        clip = sum(weight * np.roll(clip, i - 5, axis) for i, weight in enumerate(kernel / kernel.sum()))
    found = errors_of(clip, Combination("red", shape, "moves right", "black"))
    assert found["place_error"] < 0.05 and found["size_error"] < 0.05 and found["edge_overlap"] < 0.95


def test_colours_are_those_of_cie():
    assert lab(np.array([[255.0, 255, 255], [0, 0, 0]])) == pytest.approx(np.array([[100, 0, 0], [0, 0, 0]]), abs=0.02)
    assert lab(np.array([255.0, 0, 0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.1)


def test_a_clip_without_an_object_is_lost_and_left_out_of_the_means():
    empty = errors_of(np.zeros((17, 64, 64, 3), np.uint8), MOVES)
    assert all(np.isnan(value) for value in empty.values())
    found = summary([empty, errors_of(render(MOVES, np.random.default_rng(0)), MOVES)])
    assert found["lost"] == "1" and found["videos"] == "2" and float(found["edge overlap, IoU"].split()[0]) > 0.98


def test_a_folder_of_videos_is_measured_against_its_prompts(tmp_path, capsys):
    folder = tmp_path / "0"
    folder.mkdir()
    write_video(folder / "000000.mp4", [render(MOVES, np.random.default_rng(0))], 8)
    (folder / "metadata.json").write_text(json.dumps({"prompt": MOVES.caption}))
    assert run(main, [str(tmp_path)]) == 0
    assert "| 1 | 0 |" in capsys.readouterr().out
    assert run(main, []) == 2 and "--floors" in capsys.readouterr().err
