import numpy as np
import pytest

from tools.numbers_world import KINDS, RADII, SPEEDS, NumberedShape, draw_numbers, parse_numbers, render_numbers
from tools.shapes_world import BACKGROUNDS, COLORS, FPS

EXAMPLE = "a red circle of radius 9 at (20, 40) moves right at speed 12 on a black background"


def drawn(count, unseen=None):
    return [draw_numbers(np.random.default_rng([seed, 1]), unseen) for seed in range(count)]


def test_captions_round_trip():
    assert parse_numbers(EXAMPLE) == NumberedShape("red", "circle", 9, 20, 40, "moves right", 12, "black")
    assert parse_numbers(f" {EXAMPLE.replace(', ', ',').upper()}.\n").caption == EXAMPLE
    for one in drawn(200):
        assert parse_numbers(one.caption) == one


@pytest.mark.parametrize(("old", "new", "says"), [
    ("radius 9", "radius nine", "not a caption"), ("(20, 40)", "20 40", "not a caption"),
    ("red", "pink", "not a caption"),
    ("radius 9", "radius 14", "radius must be 6 to 13"), ("speed 12", "speed 1", "speed 2 to 16"),
    ("speed 12", "speed 17", "speed 2 to 16"), ("(20, 40)", "(30, 40)", "stay in the frame"),
    ("(20, 40)", "(20, 60)", "stay in the frame")])
def test_a_caption_that_names_no_clip_of_the_world_is_refused(old, new, says):
    with pytest.raises(ValueError, match=says):
        parse_numbers(EXAMPLE.replace(old, new))


def test_what_training_never_shows_is_in_no_training_clip_and_alone_in_its_own():
    train = drawn(400)
    assert {one.unseen for one in train} == {()}
    assert {one.radius for one in train} == set(RADII) - {8, 11}
    assert {one.speed for one in train} == set(SPEEDS) - {3, 7, 11}
    assert not [one for one in train if 16 <= one.x < 32 and 32 <= one.y < 48]
    for kind in KINDS:
        assert {one.unseen for one in drawn(30, kind)} == {(kind,)}
    assert {one.radius for one in drawn(30, "radius")} == {8, 11}
    assert {one.speed for one in drawn(30, "speed")} == {3, 7, 11}


def test_a_clip_shows_the_numbers_of_its_caption():
    """Area, centroid and its way, measured in the pixels, are those that the caption says."""
    area_of_radius_1 = {"circle": np.pi, "square": 4.0, "triangle": 3**0.5}
    for one in drawn(25) + drawn(15, "radius"):
        clip = render_numbers(one).astype(float)
        assert clip.shape == (17, 64, 64, 3)
        background = np.array(BACKGROUNDS[one.background], float)
        toward = np.array(COLORS[one.color]) - background
        coverage = (clip - background) @ toward / (toward @ toward)
        assert coverage[:, [0, -1]].max() < 0.01 and coverage[:, :, [0, -1]].max() < 0.01, "it stays in the frame"
        area = coverage.sum((1, 2))
        assert np.sqrt(area / area_of_radius_1[one.shape]) == pytest.approx(np.full(17, one.radius), abs=0.05)
        grid = np.arange(64) + 0.5
        center = np.stack([coverage.sum(1) @ grid, coverage.sum(2) @ grid], 1) / area[:, None]
        assert center[0] == pytest.approx(np.array([one.x, one.y]), abs=0.1)
        way = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}[one.motion]
        assert (center[-1] - center[0]) / 16 * FPS == pytest.approx(np.array(way) * one.speed, abs=0.1)
