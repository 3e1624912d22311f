import numpy as np
import pytest

from tools import shapes_world
from tools.shapes_world import Combination, all_combinations, is_held_out, parse_caption, render


def coverage_of(combination, clip):
    """Return the share of each pixel that has the shape's colour, (17, 64, 64)."""
    background = np.array(shapes_world.BACKGROUNDS[combination.background], float)
    toward = np.array(shapes_world.COLORS[combination.color]) - background
    return (clip - background) @ toward / (toward @ toward)


def test_216_combinations_of_which_18_are_held_out_on_either_background():
    combinations = all_combinations()
    assert len(set(combinations)) == 216
    held_out = {(c.color, c.shape, c.motion) for c in combinations if c.held_out}
    assert len(held_out) == 18 and sum(c.held_out for c in combinations) == 36
    assert is_held_out("red", "circle", "moves left") and is_held_out("purple", "square", "moves left")
    assert not is_held_out("red", "square", "moves left")
    for position in range(3):  # every colour, shape and motion occurs in training
        assert len({c[position] for c in held_out}) == (6, 3, 6)[position]


def test_captions_round_trip():
    first = Combination("red", "circle", "moves left", "black")
    assert first.caption == "a red circle moves left on a black background"
    for combination in all_combinations():
        assert parse_caption(combination.caption) == combination
    assert parse_caption(" A green  square GROWS on a gray background.\n").color == "green"
    for wrong in ("", "a red circle", "a pink circle grows on a gray background", "red circle grows on gray"):
        with pytest.raises(ValueError, match="not a caption"):
            parse_caption(wrong)


def test_a_seed_gives_the_same_pixels():
    combination = all_combinations()[100]
    first, again, other = (render(combination, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (17, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("combination", all_combinations()[::5], ids=lambda c: c.caption)
def test_every_clip_keeps_the_promises_of_the_world(combination):
    area_of_unit_radius = {"circle": np.pi, "square": 4.0, "triangle": np.sqrt(3)}[combination.shape]
    grid = np.arange(64) + 0.5
    for seed in range(3):
        clip = render(combination, np.random.default_rng(seed))
        coverage = coverage_of(combination, clip)
        background = shapes_world.BACKGROUNDS[combination.background]
        for border in (clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]):
            assert (border == background).all()
        assert ((coverage > 0.02) & (coverage < 0.98)).any(), "edges are anti-aliased"
        area = coverage.sum((1, 2))
        radius = np.sqrt(area / area_of_unit_radius)
        assert radius.min() > 6.9 and radius.max() < 13.1
        path = np.stack([coverage.sum(1) @ grid, coverage.sum(2) @ grid], 1) / area[:, None]
        steps = np.diff(path, axis=0)
        if combination.motion in shapes_world.DIRECTIONS:
            assert (steps @ shapes_world.DIRECTIONS[combination.motion]).min() > 1.0
            assert np.ptp(radius) < 0.05
        else:
            growth = radius[-1] / radius[0]
            assert (growth if combination.motion == "grows" else 1 / growth) >= 1.6
            assert np.abs(steps).max() < 0.05


def test_a_colour_outside_the_world_can_be_asked_for_and_is_in_no_part_of_it():
    orange = all_combinations(shapes_world.OUTSIDE)
    assert len(orange) == 36 and not any(c.held_out for c in orange)
    assert not set(orange) & set(all_combinations())
    assert parse_caption(orange[0].caption) == orange[0]
    frame = render(orange[0], np.random.default_rng(0))[0].reshape(-1, 3).tolist()
    assert list(shapes_world.OUTSIDE["orange"]) in frame
