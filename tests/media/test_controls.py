"""Control clips: masks and edges made of a clip, and files beside it."""
import logging

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from data_video import SFTDataset
from media.controls import is_control_file, made_control
from media.videos import write_video
from tools.make_control import main
from tools.shapes_world import Combination, render

FORM = {"video_size": [32, 32], "fps": 8, "max_num_frames": 9}


def square(color, ground, frames=3, size=24):
    clip = torch.tensor(ground).view(1, 3, 1, 1).repeat(frames, 1, size, size).float()
    for t in range(frames):
        clip[t, :, 6:14, 6 + t:14 + t] = torch.tensor(color).view(3, 1, 1)
    return clip


@pytest.mark.parametrize("color, ground", [((1, 1, 1), (-1, -1, -1)), ((-0.9, 0.5, -0.5), (-0.3, -0.3, -0.3)),
                                           ((-1, -1, -1), (1, 0.5, 0))])
def test_a_mask_is_white_where_the_object_is_whatever_its_colour(color, ground):
    made = made_control("mask", square(color, ground))
    assert torch.equal(made, square((1, 1, 1), (-1, -1, -1))) and made.is_contiguous()


def test_edges_are_white_along_outlines_alone():
    made = made_control("edges", square((0.2, 0.2, 0.9), (-0.5, -0.5, -0.5)))
    assert made.shape == (3, 3, 24, 24) and made.max() == 1 and (made[:, 0] == made[:, 2]).all()
    assert (made[0, 0, 7:13, [5, 6, 13, 14]] > 0.5).all(), "on both sides of an outline"
    assert (made[0, 0, 8:12, 8:12] == -1).all() and (made[:, :, :4] == -1).all()


@pytest.mark.parametrize("kind", ["mask", "edges"])
def test_noise_and_plain_frames_are_black(kind):
    plain = torch.full((5, 3, 16, 16), 0.3)
    assert (made_control(kind, plain) == -1).all()
    assert made_control(kind, plain + 0.01 * torch.randn(plain.shape)).mean() < -0.8


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        pixels = np.full((12, 40, 48, 3), 40 * i, np.uint8)
        write_video(tmp_path / "videos" / "deep" / f"{i}.mp4", [pixels], 8)
        write_video(tmp_path / "controls" / "deep" / f"{i}.mp4", [255 - pixels], 8)
        (tmp_path / "labels" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "deep" / f"{i}.txt").write_text(f"clip {i}")
    return tmp_path


def test_control_clips_of_a_folder_belong_to_their_clips_and_are_no_clips(folder):
    (bucket,) = SFTDataset.buckets(str(folder), memory=folder / "clips.json", control="folder", **FORM)
    assert bucket.captions == ["clip 0", "clip 1", "clip 2"] and len(set(bucket.control_digests)) == 3
    assert not {*bucket.control_digests} & {*bucket.digests}
    for item in bucket:
        assert item["control"].shape == item["mp4"].shape == (9, 3, 32, 32)
        torch.testing.assert_close(item["control"], -item["mp4"], atol=0.03, rtol=0)
    assert is_control_file(folder / "controls" / "a.mp4", folder)
    assert not is_control_file(folder / "videos" / "controls.mp4", folder)


def test_missing_short_and_damaged_control_clips_are_refused_with_count_and_names(folder):
    def refused(says):
        with pytest.raises(DataError, match=says):
            SFTDataset.buckets(str(folder), control="folder", **FORM)

    write_video(folder / "controls" / "deep" / "1.mp4", [np.zeros((5, 40, 48, 3), np.uint8)], 8)
    refused(r"1 of 3 control clips .*shorter.*1.mp4 \(5 frames, 1.mp4 9\)")
    (folder / "controls" / "deep" / "2.mp4").write_bytes(b"no video")
    refused("2 of 3 control clips cannot be read")
    (folder / "controls" / "deep" / "0.mp4").unlink()
    refused("1 of 3 clips have no control clip: .*0.mp4; put controls/NAME.mp4 beside videos/NAME.mp4")
    with pytest.raises(DataError, match="no control clip"):
        SFTDataset(str(folder), control="folder", **FORM)


def test_without_control_an_item_has_none_and_an_unknown_kind_is_refused(folder):
    assert "control" not in SFTDataset(str(folder / "videos"), **FORM)[0]
    from configuration.targets import check_config
    with pytest.raises(ConfigError, match="control"):
        check_config({"target": "data_video.SFTDataset", "params": {**FORM, "data_dir": "a", "control": "depth"}}, "x")


def test_the_tool_makes_control_clips_of_clips_and_folders(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    frames = render(Combination("red", "circle", "moves left", "gray"), np.random.default_rng(0))
    write_video(tmp_path / "in" / "a.mp4", [frames], 8)
    main(["mask", str(tmp_path / "in" / "a.mp4"), "--out", str(tmp_path / "one.mp4")])
    main(["mask", str(tmp_path / "in"), "--out", str(tmp_path / "all")])
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "all" / "a.mp4").read_bytes()
    (tmp_path / "again" / "videos").mkdir(parents=True)
    (tmp_path / "one.mp4").rename(tmp_path / "again" / "videos" / "a.mp4")
    made = SFTDataset(str(tmp_path / "again"), [64, 64], 8, 17)[0]["mp4"]
    wanted = torch.from_numpy(frames[..., 0] > 160).float() * 2 - 1
    assert ((made[:, 0] > 0) == (wanted > 0)).float().mean() > 0.98
    with pytest.raises(DataError, match="exists already"):
        main(["mask", str(tmp_path / "in"), "--out", str(tmp_path / "all")])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot be read"):
        main(["edges", str(tmp_path / "text.mp4"), "--out", str(tmp_path / "b.mp4")])
