import numpy as np
import pytest

from tools.relations_world import RelatedShapes, draw_relation, holds, parse_relation, render_relation
from tools.shapes_world import COLORS

EXAMPLE = "a red circle left of a blue square on a black background"


def drawn(count, unseen=None):
    return [draw_relation(np.random.default_rng([seed, 2]), unseen) for seed in range(count)]


def pixels_of(clip, color):
    """Return which pixels of the first frame have a colour, but for soft edges."""
    return np.linalg.norm(clip[0].astype(float) - COLORS[color], axis=-1) < 40


def test_captions_round_trip():
    assert parse_relation(EXAMPLE) == RelatedShapes("red", "circle", "left of", "blue", "square", "black")
    for one in drawn(200) + drawn(50, "combination"):
        assert parse_relation(one.caption) == one
    for old, new in ((EXAMPLE, ""), ("left", "right"), ("blue", "red"), ("a blue", "blue")):
        wrong = EXAMPLE.replace(old, new)
        with pytest.raises(ValueError, match="not a caption of two shapes of different colours"):
            parse_relation(wrong)


def test_a_sixth_of_the_firsts_and_their_relations_is_never_seen():
    train, other = drawn(2000), drawn(300, "combination")
    firsts, never = ({(one.color, one.shape, one.relation) for one in part} for part in (train, other))
    assert len(firsts) == 45 and len(never) == 9 and not firsts & never
    assert {one.relation for one in other} == {one.relation for one in train}, "each relation is held out of some"


def test_a_clip_shows_what_its_caption_says():
    grid = np.arange(64) + 0.5
    for seed, one in enumerate(drawn(45) + drawn(9, "combination")):
        clip = render_relation(one, np.random.default_rng(seed))
        assert clip.shape == (17, 64, 64, 3) and clip.dtype == np.uint8 and (clip == clip[0]).all()
        masks = [pixels_of(clip, color) for color in (one.color, one.other_color)]
        first, other = (np.array([mask.sum(0) @ grid, mask.sum(1) @ grid]) / mask.sum() for mask in masks)
        if one.relation == "larger than":
            widths = [np.ptp(np.flatnonzero(mask.any(0))) for mask in masks]
            assert widths[0] > 1.2 * widths[1]
        else:
            along, across = (other - first)[::1 if one.relation == "left of" else -1]
            assert along > abs(across) - 1
        same = render_relation(one, np.random.default_rng(seed))
        assert np.array_equal(clip, same)


def test_a_share_of_what_the_world_keeps_can_be_enough():
    origin = np.zeros(2)
    assert holds("left of", origin, np.array([10.0, 9]), 1) and not holds("left of", origin, np.array([10.0, 12]), 1)
    assert holds("left of", origin, np.array([10.0, 12]), 1, 0.75)
    assert holds("above", origin, np.array([0.0, 9]), 1) and not holds("above", origin, np.array([0.0, -9]), 1)
    assert holds("larger than", origin, origin, 1.35, 0.75) and not holds("larger than", origin, origin, 1.35)
