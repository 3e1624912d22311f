"""Tests of the judge of numbers and relations, on rendered clips and on clips with known faults."""
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.scenes_judge import NUMBERS, follow_colors, judge_scene
from tests.benchmarks.test_shapes_judge import poorly_decoded
from tools.grammars import GRAMMARS, parse_scene, render_scene, scenes_of
from tools.shapes_world import COLORS

MOVING = parse_scene("a red square of radius 9 at (20, 40) moves right at speed 12 on a black background")
RELATED = parse_scene("a red circle left of a blue square on a gray background")


def clip_of(scene, seed=0):
    return render_scene(scene, np.random.default_rng(seed)).astype(np.float32)


@pytest.mark.parametrize("damage", ["none", "poor decoder"])
@pytest.mark.parametrize("name", GRAMMARS)
def test_what_a_caption_asks_for_is_found(name, damage):
    rng = np.random.default_rng(0)
    for scene, seed in [*scenes_of(name, False, 4, [4, 0, 0]), *scenes_of(name, True, 4, [4, 0, 1])]:
        clip = render_scene(scene, np.random.default_rng(seed)).astype(np.float32)
        judged = judge_scene(clip if damage == "none" else poorly_decoded(clip, rng), scene)
        assert judged.all_right and not judged.lost, (scene.caption, judged)
        if name == "numbers":
            errors = [abs(judged.numbers[number] - getattr(scene, number)) for number in NUMBERS]
            assert max(errors) < (0.01 if damage == "none" else 0.7)


@pytest.mark.parametrize(("number", "value"), [("radius", 11), ("x", 24), ("y", 31), ("speed", 8)])
def test_a_number_is_measured_whatever_was_asked(number, value):
    found = judge_scene(clip_of(replace(MOVING, **{number: value})), MOVING)
    assert found.all_right, "the words are right all the same"
    expected = {name: getattr(MOVING, name) for name in NUMBERS} | {number: value}
    assert found.numbers == pytest.approx(expected, abs=0.02)


def test_wrong_words_of_a_numbered_clip_are_wrong():
    clip = clip_of(MOVING)
    for scene, wrong in ((replace(MOVING, color="blue"), "color"), (replace(MOVING, shape="circle"), "shape"),
                         (replace(MOVING, motion="moves up"), "motion"),
                         (replace(MOVING, background="gray"), "background")):
        assert [name for name, right in judge_scene(clip, scene).right.items() if not right] == [wrong]
    backward = judge_scene(clip[::-1], MOVING)
    assert not backward.right["motion"] and backward.numbers["speed"] == pytest.approx(-12, abs=0.02)
    assert not judge_scene(clip[[8] * 17], MOVING).right["motion"], "at rest"


def test_a_clip_without_a_shape_is_lost():
    noise = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3))
    for mush in (np.zeros_like(noise), np.full_like(noise, 128), noise):
        for scene in (MOVING, RELATED):
            judged = judge_scene(mush, scene)
            assert not any(judged.right[name] for name in judged.right if name != "background"), judged
        assert judge_scene(mush, MOVING).lost and np.isnan(judge_scene(mush, MOVING).numbers["radius"])


def test_wrong_relations_are_wrong():
    clip = clip_of(RELATED, seed=2)
    way = judge_scene(clip, RELATED).numbers
    assert judge_scene(clip, RELATED).all_right and way["x"] > 2 * abs(way["y"]), "clearly left of it"
    assert not judge_scene(clip[:, :, ::-1], RELATED).right["relation"], "mirrored, it is right of it"
    assert judge_scene(clip[:, :, ::-1], replace(RELATED, color="blue", shape="square", other_color="red",
                                                other_shape="circle")).all_right
    assert not judge_scene(clip, replace(RELATED, relation="above")).right["relation"]
    assert not judge_scene(clip, replace(RELATED, shape="triangle")).right["shapes"]
    swapped = judge_scene(clip, replace(RELATED, color="blue", other_color="red"))
    assert not swapped.right["shapes"] and not swapped.right["relation"] and swapped.right["colors"]
    assert not judge_scene(clip, replace(RELATED, other_color="white")).right["colors"]
    larger = parse_scene("a red circle larger than a blue square on a black background")
    assert judge_scene(clip_of(larger), larger).all_right
    equal = judge_scene(clip_of(replace(larger, color="blue", shape="square", other_color="red", other_shape="circle")),
                        larger)
    assert not equal.right["relation"] and equal.right["shapes"] and equal.numbers["ratio"] < 0.8


def test_one_shape_or_three_are_not_two():
    clip = clip_of(RELATED)
    tracks = follow_colors(clip, np.array([90.0, 90, 90]))
    assert set(tracks) == {"red", "blue"}
    hidden = np.where((tracks["blue"].coverage > 0)[..., None], 90, clip)
    alone = judge_scene(hidden, RELATED)
    assert not alone.right["colors"] and not alone.right["relation"] and not alone.lost
    third = clip.copy()
    third[:, 2:10, 2:10] = COLORS["yellow"]
    assert not judge_scene(third, RELATED).right["colors"]


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="frames have shape"):
        judge_scene(np.zeros((17, 32, 64, 3)), MOVING)
