"""Tests of the small models' tables."""
import numpy as np

from benchmarks.small_model import Measured, split_rows
from media.videos import VIDEO, write_video
from tools.shapes_world import FPS, Combination, all_combinations, render


def measured(combination, folder, shift):
    """Return what is measured of a rendered clip whose every second frame is moved down by whole pixels."""
    frames = render(combination, np.random.default_rng(3)).copy()
    frames[::2] = np.roll(frames[::2], shift, axis=1)
    folder.mkdir()
    write_video(folder / VIDEO, [frames], FPS)
    return Measured.of(combination, folder / VIDEO)


def first(row, column):
    return float(row[column].split()[0])


def test_rows_say_what_is_right_and_how_far_off_it_is(tmp_path):
    seen = Combination("red", "circle", "moves right", "black")
    unseen = next(c for c in all_combinations() if c.held_out and c.motion == "moves left")
    steady, shaken = split_rows("t2v", [measured(seen, tmp_path / "a", 0), measured(unseen, tmp_path / "b", 2)])
    assert [steady["combinations"], shaken["combinations"]] == ["seen", "never seen"]
    assert steady["all"].startswith("100.0") and first(steady, "edge overlap, IoU") > 0.9
    assert first(steady, "place error, px") < 0.1
    assert 0.9 < first(shaken, "place error, px") < 1.1, "one pixel to each side of the course"
