"""Tests of the tables of numbers and relations."""
import json

import numpy as np
import pytest

from benchmarks import numbers_judge as numbers
from benchmarks.numbers_judge import regression, summary, tables
from benchmarks.scenes_judge import judge_scene
from common.console import run
from media.videos import write_video
from tools.grammars import parse_scene, render_scene, scenes_of


def test_regression_has_known_answers():
    asked = [6, 8, 10, 12]
    assert regression(asked, asked) == pytest.approx((0, 1, 1))
    assert regression(asked, [7, 9, 11, 13]) == pytest.approx((1, 1, 1)), "an offset"
    assert regression(asked, [7.5, 8.5, 9.5, 10.5]) == pytest.approx((1, 0.5, 1)), "half the slope"
    error, slope, correlation = regression(asked, [9, 9, 9, 9])
    assert error == 2 and np.isnan(slope) and np.isnan(correlation)
    assert regression(asked, [6, np.nan, 10, 12]) == pytest.approx((0, 1, 1)), "lost clips are left out"
    assert np.isnan(regression(asked, [np.nan] * 4)).all()
    noise = np.random.default_rng(0).normal(size=(2, 4000))
    assert abs(regression(*noise)[2]) < 0.05


def judged(name, count=4):
    scenes = [*scenes_of(name, False, count, [3, 0, 0]), *scenes_of(name, True, count, [3, 0, 1])]
    return [(scene, judge_scene(render_scene(scene, np.random.default_rng(seed)), scene)) for scene, seed in scenes]


def test_each_kind_of_what_is_never_seen_has_a_row():
    rows = tables("rendered", judged("numbers")).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| seen", "| radius never seen", "| speed never seen", "| place never seen", "| combination never seen"]
    assert rows[2].split(" | ")[1:3] == ["4", "0"] and "100.0 (51–100)" in rows[2] and "0.00 (1.00, 1.000)" in rows[2]
    assert len(tables("rendered", judged("relations", 2)).splitlines()) == 4


def test_lost_clips_are_counted_and_wrong():
    results = judged("numbers", 2)
    scene = results[0][0]
    results[0] = scene, judge_scene(np.zeros((17, 64, 64, 3)), scene)
    row = summary(results)
    assert row["lost"] == "1" and row["color"].startswith("75.0") and row["all"].startswith("75.0")


def test_a_folder_of_videos_is_judged_by_its_prompts(tmp_path, capsys, caplog):
    prompts = ["a red square of radius 9 at (40, 20) moves left at speed 12 on a black background",
               "a red circle of radius 8 at (40, 20) moves left at speed 12 on a black background",
               "a red circle left of a blue square on a black background", "a cat"]
    for index, prompt in enumerate(prompts):
        folder = tmp_path / "videos" / str(index)
        folder.mkdir(parents=True)
        shown = render_scene(parse_scene(prompts[index % 3]), np.random.default_rng(0))
        write_video(folder / "000000.mp4", [shown], 8)
        (folder / "metadata.json").write_text(json.dumps({"prompt": prompt}))
    assert run(numbers.main, ["videos", str(tmp_path / "videos"), "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for group in ("seen", "several never seen", "combination never seen"):
        assert f"| {group} | 1 | 0 |" in told
    assert "1 video(s) left out, whose prompt has no numbers and no relation" in caplog.text
    assert (tmp_path / "numbers_videos.md").read_text().strip() in told
    for words, says in ((["videos", str(tmp_path / "nothing")], "no video below"),
                        (["videos"], "give an output folder"),
                        (["videos", "--seed", "1"], "--seed has no effect on videos")):
        assert run(numbers.main, [*words, "--out", str(tmp_path)]) == 2
        assert says in capsys.readouterr().err
