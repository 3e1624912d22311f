"""Tests of the players: what stands beside each video, and that names stay text."""
import html
import json

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from cogvideo.studio.players import Shown, players
from media.videos import EXACT_COLORS, write_video


@pytest.fixture
def videos(tmp_path):
    """Two videos of which the second frame differs."""
    shown = []
    for name, last in (("one", 100), ("other", 110)):
        frames = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (100, last)])
        write_video(tmp_path / f"{name}.mp4", [frames], 8, EXACT_COLORS)
        shown.append(Shown(name, tmp_path / f"{name}.mp4", f"/outputs/{name}.mp4"))
    return shown


def test_each_video_has_its_decibels_to_the_reference_frame_by_frame(videos):
    page = players(videos, 2)
    assert 'data-frames="2" data-fps="8"' in page and page.count("<video") == 2 and page.count("<canvas") == 1
    (values,) = [json.loads(html.unescape(part.split('"')[0])) for part in page.split('data-db="')[1:]]
    assert values[0] is None and values[1] == pytest.approx(28.1, abs=1)
    assert players(videos, 2, reference=1).index("data-reference") > page.index("data-reference")


def test_a_cell_without_video_has_its_line_and_names_are_text(videos):
    page = players([videos[0], Shown("<b onclick=x>", problem="error: <i>")], 2)
    assert "&lt;b onclick=x&gt;" in page and "error: &lt;i&gt;" in page and "<b " not in page and "<i>" not in page
    assert "<video" not in players([Shown("nothing", problem="waits")], 1)


def test_a_video_of_another_length_is_shown_without_difference(videos, tmp_path):
    write_video(tmp_path / "long.mp4", [np.zeros((5, 16, 16, 3), np.uint8)], 8)
    page = players([*videos, Shown("long", tmp_path / "long.mp4", "/outputs/long.mp4")], 3)
    assert "another number of frames" in page and page.count("<video") == 3 and 'data-frames="5"' in page


def test_a_reference_that_cannot_be_decoded_is_one_line(videos, tmp_path):
    (tmp_path / "bad.mp4").write_text("nonsense")
    page = players([Shown("bad", tmp_path / "bad.mp4", "/outputs/bad.mp4"), *videos], 3)
    assert "bad.mp4 cannot be decoded" in page and page.count("<video") == 2
