"""Tests of the difference of two videos in decibels."""
import math

import numpy as np
import pytest

from cogvideo.studio.differences import decibels, frames_and_rate
from common.errors import DataError
from media.videos import EXACT_COLORS, write_video


def video(path, values, size=16):
    frames = np.stack([np.full((size, size, 3), value, np.uint8) for value in values])
    write_video(path, [frames], 8, EXACT_COLORS)
    return path


def test_each_frame_and_the_whole_have_their_ratio(tmp_path):
    found = decibels(video(tmp_path / "a.mp4", [100, 100, 100]), video(tmp_path / "b.mp4", [100, 110, 120]))
    exact = [-10 * math.log10(error**2 / 255**2) for error in (10, 20)]
    assert found.frames[0] == math.inf and found.frames[1:] == pytest.approx(exact, abs=1)
    assert found.whole == pytest.approx(-10 * math.log10((10**2 + 20**2) / 3 / 255**2), abs=1)


def test_a_video_equals_itself(tmp_path):
    path = video(tmp_path / "a.mp4", [3, 200])
    assert decibels(path, path).whole == math.inf and frames_and_rate(path) == (2, 8.0)


@pytest.mark.parametrize("values, size, says", [([1, 2, 3], 16, "another number of frames"), ([1, 2], 32, "32 x 32")])
def test_videos_that_cannot_be_compared_are_refused_in_a_line(tmp_path, values, size, says):
    with pytest.raises(DataError, match=says):
        decibels(video(tmp_path / "a.mp4", [1, 2]), video(tmp_path / "b.mp4", values, size))


def test_a_damaged_video_is_refused(tmp_path):
    (tmp_path / "b.mp4").write_text("nonsense")
    with pytest.raises(DataError, match=r"b\.mp4 cannot be decoded"):
        decibels(video(tmp_path / "a.mp4", [1]), tmp_path / "b.mp4")
    with pytest.raises(DataError, match=r"b\.mp4 cannot be decoded"):
        frames_and_rate(tmp_path / "b.mp4")
