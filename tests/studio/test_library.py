"""Tests of the videos of a folder and their records, which are foreign files."""
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cogvideo.studio.library import record_of, thumbnail, video_named, videos_of
from common.errors import DataError
from media import records
from media.videos import write_video

RECORD = {"prompt": "a red circle", "seed": 3, "config": {
    "args": {"load": "/somewhere/checkpoints/tiny/t2v"},
    "model": {"sampler_config": {"target": "sgm.sampling.UniPCSampler", "params": {
        "num_steps": 12, "guider_config": {"target": "sgm.guiders.APG", "params": {"scale": 3}}}}}}}


def write(folder, record=RECORD, frames=2):
    write_video(folder / "000000.mp4", [np.zeros((frames, 16, 16, 3), np.uint8)], 8)
    if record is not None:
        (folder / "metadata.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def test_a_video_has_what_its_record_says(tmp_path):
    write(tmp_path / "a/0_red/0")
    (video,) = videos_of(tmp_path)
    assert (video.name, video.prompt, video.model, video.sampler, video.guider, video.steps, video.seed, video.problem
            ) == ("a/0_red/0/000000.mp4", "a red circle", "tiny/t2v", "UniPCSampler", "APG", "12", "3", "")
    assert video.setting == "tiny/t2v, UniPCSampler, APG, 12 steps, seed 3"


@pytest.mark.parametrize("record, says", [
    (None, "no metadata.json beside it"),
    ("{", "metadata.json is damaged (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    ("[" * 100_000, "metadata.json is damaged (maximum recursion depth exceeded while decoding a JSON array from a "
                    "unicode string)"),
    ("[1]", "metadata.json is damaged (it holds no names with values)"),
    ({"prompt": "a", "files": {"latents.safetensors": {}}}, "metadata.json is that of another file"),
    ({"prompt": {"a": 1}}, "metadata.json has no prompt"),
    ('{"prompt": "\\ud800 hi"}', ""),
    ({"prompt": "a", "seed": [1], "config": {"args": 3, "model": ["x"]}}, ""),
    ({"prompt": "a", "config": {"model": {"sampler_config": {"target": {}, "params": 3}}}}, ""),
])
def test_a_broken_or_half_record_is_one_line(tmp_path, record, says):
    write(tmp_path, record)
    (video,) = videos_of(tmp_path)
    assert video.problem == says and "\n" not in video.setting and video.prompt.encode() is not None


def test_a_name_that_is_no_text_is_shown_and_found_no_more(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4r.mp4")).write_bytes(b"a video")
    (video,) = videos_of(tmp_path)
    assert video.name == "b\\udce4r.mp4"
    with pytest.raises(DataError, match="is not in"):
        video_named(tmp_path, video.name)


def test_a_record_without_its_video_and_a_file_that_is_no_video_are_shown_as_such(tmp_path):
    (write(tmp_path / "a") / "000000.mp4").unlink()
    (tmp_path / "b.mp4").write_text("nonsense")
    problems = {video.name: (video.problem, thumbnail(video.path, video.time)) for video in videos_of(tmp_path)}
    assert problems == {"a/000000.mp4": ("its metadata.json is there, but no video", None),
                        "b.mp4": ("no metadata.json beside it", None)}


def test_a_record_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST_RECORD", 10)
    write(tmp_path)
    assert "more than a record has" in videos_of(tmp_path)[0].problem


def test_newest_first_and_a_changed_record_is_read_again(tmp_path):
    for i, name in enumerate("ab"):
        os.utime(write(tmp_path / name) / "000000.mp4", (i, i))
    assert [video.name[0] for video in videos_of(tmp_path)] == ["b", "a"]
    (tmp_path / "a/metadata.json").write_text(json.dumps({**RECORD, "prompt": "another one"}))
    assert videos_of(tmp_path)[1].prompt == "another one"


@pytest.mark.parametrize("name", ["../secret/000000.mp4", "link/000000.mp4", "inside.mp4", "/etc/passwd", "", "\0.mp4",
                                  "a/../../secret/000000.mp4", None, 3, ["a"], "x" * 5000 + ".mp4"])
def test_nothing_outside_of_the_folder_is_found_by_name(tmp_path, name):
    root = tmp_path / "outputs"
    write(root / "a")
    secret = write(tmp_path / "secret")
    (root / "link").symlink_to(secret)
    (root / "inside.mp4").symlink_to(secret / "000000.mp4")
    assert [video.name for video in videos_of(root)] == ["a/000000.mp4"]
    for reach in (video_named, record_of):
        with pytest.raises(DataError):
            reach(root, name)
    assert record_of(root, "a/000000.mp4")["seed"] == 3


def test_a_thumbnail_is_a_small_picture_of_the_first_frame(tmp_path):
    write(tmp_path)
    found = thumbnail(tmp_path / "000000.mp4", 0.0)
    assert found.startswith("data:image/jpeg;base64,") and len(found) < 20_000
