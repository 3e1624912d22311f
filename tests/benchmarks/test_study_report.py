"""Tests of a study's page: videos with their marks, tables, glossary, and names that are not markup."""
import re

import numpy as np
import pytest

from benchmarks.studies.clip_features import UNITS
from benchmarks.studies.clips import TABLE, Clips, write_clips
from benchmarks.studies.filters import SCRIPT, filter_bar, filtered_by
from benchmarks.studies.grid import Cell
from benchmarks.studies.page import glossary, made, page, table
from benchmarks.studies.shown_videos import VIDEOS, videos_of
from media.videos import write_video
from tools.shapes_world import Combination

CELL = Cell("Euler", "table", "plain", 4, 1)
RIGHT = Combination("red", "circle", "moves left", "black")
WRONG = Combination("blue", "square", "grows", "gray")


@pytest.fixture
def solved(tmp_path):
    """The folder of a cell with two captions, two videos of each; the motion of the second caption is wrong."""
    right = np.ones((2, 2, 4), bool)
    right[1, :, 2] = False
    write_clips(tmp_path / TABLE, Clips((RIGHT, WRONG), right, np.zeros((2, 2, len(UNITS)))))
    for i, combination in enumerate((RIGHT, WRONG)):
        for seed in (2, 3):
            target = tmp_path / f"{i:03d}_{combination.caption}" / str(seed) / "000000.mp4"
            write_video(target, [np.zeros((2, 16, 16, 3), np.uint8)], 8)
    return tmp_path


def test_each_video_has_its_caption_seed_setting_and_mark(solved):
    shown = list(videos_of(CELL, solved))
    assert [(one.caption, one.seed, one.wrong) for one in shown] == [
        (RIGHT.caption, 2, ()), (WRONG.caption, 2, ("motion",)),
        (RIGHT.caption, 3, ()), (WRONG.caption, 3, ("motion",))]
    assert len(shown) == VIDEOS
    for one, mark in zip(shown, ("✓ right", "✗ wrong: motion") * 2, strict=True):
        for text in (mark, one.caption, "Euler, table, guidance plain, 4 steps", f"seed {one.seed}", "playsinline"):
            assert text in one.html


def test_a_video_without_verdict_says_so(solved):
    (solved / TABLE).unlink()
    assert all("not judged" in one.html for one in videos_of(CELL, solved))


def test_names_are_text_on_the_page_and_nothing_is_loaded_from_elsewhere():
    name = "<script src=http://example.org></script>"
    shown = page(name, [(name, table([{"sampler": name, name: 1.0}]))], "")
    assert shown.count("<script") == 1 and f"<script>{SCRIPT}</script>" in shown and "default-src 'none'" in shown
    assert '<meta name="viewport" content="width=device-width' in shown


def test_filters_offer_what_differs_and_find_both_sides_of_a_comparison():
    bar = filter_bar({"sampler": ["Euler", "<Heun>"], "schedule": ["table"]})
    assert "<option>&lt;Heun&gt;</option>" in bar and "table" not in bar and " hidden>" in bar
    assert filtered_by({"steps": "4 / 8", "seed": 0}) == (
        'data-of="{&quot;steps&quot;: [&quot;4&quot;, &quot;8&quot;], &quot;seed&quot;: [&quot;0&quot;]}"')


def test_tables_scroll_inside_the_page_and_intervals_have_no_columns():
    shown = table([{"steps": 6, "accuracy": 0.75, "accuracy_low": 0.5, "accuracy_high": 0.9041}])
    assert re.match(r'<div class="scroll"', shown) and "0.75 (0.5 to 0.904)" in shown
    assert re.findall("<th>(.*?)</th>", shown) == ["steps", "accuracy"]
    assert table([]) == ""


def test_the_glossary_explains_known_columns_once():
    shown = glossary(["passes", "distance", "distance", "unheard_of"])
    assert shown.count("<dt>distance</dt>") == 1 and "lower is better" in shown and "unheard" not in shown


def test_the_page_says_when_and_with_which_code_it_was_made(monkeypatch):
    known = made().removesuffix(" with changes that are not committed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, commit (\w{7,}|unknown)", known)
    monkeypatch.setenv("PATH", "")
    assert made().endswith("commit unknown")
