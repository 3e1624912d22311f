"""Tests of the gallery: filters, pages, cards, and what a request may ask for."""
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from cogvideo.studio import gallery
from media.videos import write_video

NAMES = ("a red circle", "a blue square", "a blue circle")


@pytest.fixture
def studio(tmp_path):
    """A studio with three videos, of two samplers."""
    for i, prompt in enumerate(NAMES):
        write_video(tmp_path / str(i) / "000000.mp4", [np.full((2, 16, 16, 3), 40 * i, np.uint8)], 8)
        sampler = {"target": f"sgm.sampling.{'UniPC' if i else 'EulerEDM'}Sampler", "params": {"num_steps": 4}}
        record = {"prompt": prompt, "seed": i, "config": {"args": {"load": "tiny/t2v"}, "model": {
            "sampler_config": sampler}}}
        (tmp_path / str(i) / "metadata.json").write_text(json.dumps(record))
    return SimpleNamespace(outputs=tmp_path, url=lambda path: f"/outputs/{path.relative_to(tmp_path)}")


def listed(studio, words="", model="all", sampler="all", page=1, picked=()):
    count, cards, *_ = gallery._listing(studio, words, model, sampler, page, picked)
    return count, cards


@pytest.mark.parametrize("filters, found", [
    ({}, 3), ({"words": "BLUE"}, 2), ({"words": "circle blue"}, 1), ({"sampler": "UniPCSampler"}, 2),
    ({"model": "tiny/t2v", "words": "red"}, 1), ({"model": "another"}, 0), ({"words": "<b>"}, 0),
])
def test_filters(studio, filters, found):
    count, cards = listed(studio, **filters)
    assert f"{found} of 3 videos" in count and cards.count("<article") == found


def test_choices_of_the_filters_are_what_the_videos_have(studio):
    _, _, models, samplers = gallery._listing(studio, "", "all", "all", 1, [])
    assert [one for one, _ in samplers.choices] == ["all", "EulerEDMSampler", "UniPCSampler"]
    assert [one for one, _ in models.choices] == ["all", "tiny/t2v"]


@pytest.mark.parametrize("page, shown", [(1, 2), (2, 1), (99, 1), (-3, 2), (None, 2), ("x", 2)])
def test_pages(studio, monkeypatch, page, shown):
    monkeypatch.setattr(gallery, "PAGE", 2)
    _, cards = listed(studio, page=page)
    assert cards.count("<article") == shown


def test_what_records_say_is_text_on_the_page(studio):
    path = studio.outputs / "0/metadata.json"
    path.write_text(json.dumps({"prompt": "<img src=x onerror=alert(1)>", "seed": "<script>"}))
    _, cards = listed(studio)
    assert "<img src=x" not in cards and "&lt;img src=x" in cards and "<script" not in cards


def press(studio, picked, **data):
    return gallery._chosen(studio, picked, SimpleNamespace(_data=data))


def test_two_are_picked_to_compare_and_a_third_takes_the_place_of_the_first(studio):
    names = [f"{i}/000000.mp4" for i in range(3)]
    picked, message, both, _ = press(studio, [], action="pick", name=names[0])
    assert picked == names[:1] and "choose another one" in message and both == ""
    picked, _, both, _ = press(studio, picked, action="pick", name=names[1])
    assert picked == names[:2] and both.count("<video") == 2 and "whole video" in both
    picked, *_ = press(studio, picked, action="pick", name=names[2])
    assert picked == names[1:]
    assert press(studio, picked, action="pick", name=names[1])[0] == names[2:]


def test_a_record_is_shown(studio):
    *_, record = press(studio, [], action="record", name="0/000000.mp4")
    assert json.loads(record.value)["prompt"] == NAMES[0]


@pytest.mark.parametrize("data", [
    {"action": "record", "name": "../../etc/passwd"}, {"action": "pick", "name": "../000000.mp4"},
    {"action": "pick", "name": None}, {"action": "record"}, {}, {"action": ["x"], "name": {}}])
def test_anything_else_is_one_line(studio, data):
    picked, message, *_ = press(studio, ["0/000000.mp4"], **data)
    assert picked == ["0/000000.mp4"] and message.startswith('<div class="problem"')
