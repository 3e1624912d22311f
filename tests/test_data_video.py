import io
import json
import logging
import re
import shutil
import tarfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import data_video
from common.errors import ConfigError, DataError
from data_video import SFTDataset, VideoDataset
from media.clip_format import ClipFormat, clip_forms, fitting_form, wanted_frames
from media.clip_survey import SHORT

FORM = {"video_size": [32, 32], "fps": 8, "max_num_frames": 9, "skip_frms_num": 0}


def write_video(path: Path, levels, fps=8, size=(32, 32)) -> Path:
    """Write a video whose frame `i` has the gray level `levels[i]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(
        str(path), size[::-1], fps=fps, codec="libx264", pix_fmt_out="yuv444p", macro_block_size=1,
        output_params=["-crf", "1", "-preset", "ultrafast"],
    )  # fmt: skip
    writer.send(None)
    for level in levels:
        writer.send(np.full((*size, 3), level, np.uint8))
    writer.close()
    return path


def levels_of(item) -> list[int]:
    """Return the gray level of each frame in 0..255."""
    return ((item["mp4"].mean((1, 2, 3)) + 1) * 127.5).round().int().tolist()


def ramp(count):
    return [10 * (1 + index) for index in range(count)]


def close(found, expected):
    return len(found) == len(expected) and all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of four clips: two with captions, one without, and one damaged."""
    root = tmp_path_factory.mktemp("data")
    write_video(root / "videos" / "a.mp4", ramp(17))
    write_video(root / "more" / "videos" / "deep" / "b.mp4", ramp(5), size=(32, 64))
    damaged = write_video(root / "videos" / "c.mp4", ramp(9))
    damaged.write_bytes(damaged.read_bytes()[:900])
    write_video(root / "videos" / "d.mp4", [200] * 9)
    (root / "videos" / ".hidden.mp4").write_bytes(b"not a clip")
    labels = {"labels/a.txt": "the first\nsecond line\n", "more/labels/deep/b.txt": "ünder", "labels/c.txt": "x"}
    for name, text in labels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_items_of_a_folder(folder, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = SFTDataset(str(folder), **FORM)
    assert [video.stem for video in dataset.videos] == ["b", "a", "c", "d"]
    assert "1 of 4 clips" in caplog.text and "d.mp4" in caplog.text
    short, long = dataset[0], dataset[1]
    assert short["mp4"].shape == (9, 3, 32, 32) and short["mp4"].dtype == torch.float32
    assert short["txt"] == "ünder" and long["txt"] == "the first second line" and dataset[3]["txt"] == ""
    assert (short["num_frames"], long["num_frames"], long["fps"]) == (5, 9, 8)
    assert close(levels_of(long), ramp(9))
    assert close(levels_of(short), ramp(5) + [50] * 4) and torch.equal(short["mp4"][4], short["mp4"][8])
    assert long["mp4"].min() >= -1 and long["mp4"].max() <= 1


def test_a_damaged_clip_is_reported_once_and_replaced_by_the_next(folder, caplog):
    dataset = SFTDataset.create_dataset_function(str(folder), None, **FORM)
    caplog.clear()
    assert dataset[2]["txt"] == dataset[3]["txt"] == ""
    assert torch.equal(dataset[2]["mp4"], dataset[3]["mp4"])
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "c.mp4" in caplog.text
    assert len(list(dataset)) == 4


def test_no_clip_left_is_an_error(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(DataError, match="none of the 2 clips"):
        SFTDataset(str(tmp_path), **FORM)[0]
    with pytest.raises(DataError, match="does not exist, or is a file"):
        SFTDataset(str(tmp_path / "missing"), **FORM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no clip: put clips into .*videos, as .mp4"):
        SFTDataset(str(tmp_path / "empty"), **FORM)


def test_batches_from_worker_processes(folder):
    batch = next(iter(DataLoader(SFTDataset(str(folder), **FORM), batch_size=2, num_workers=1)))
    assert batch["mp4"].shape == (2, 9, 3, 32, 32) and batch["txt"] == ["ünder", "the first second line"]


@pytest.mark.parametrize("rate", [3, 8, 12, 24, 29.97, 30, 60])
def test_frames_are_taken_at_the_wanted_times(rate):
    starts = np.arange(int(4 * rate)) / rate
    timestamps = np.stack([starts, starts + 1 / rate], 1).astype(np.float32).astype(np.float64)
    form = ClipFormat((32, 32), 8, 17, 2)
    shown = starts[wanted_frames(timestamps, form)] - starts[2]
    times = np.arange(17) / 8
    assert len(shown) == 17
    assert ((times - shown > -2e-3) & (times - shown < 1 / rate)).all()


def test_uneven_frames_play_at_their_own_times():
    starts = np.array([0, 0.1, 0.2, 1.0, 1.05])
    timestamps = np.stack([starts, [0.1, 0.2, 1.0, 1.05, 1.5]], 1)
    assert wanted_frames(timestamps, ClipFormat((32, 32), 4, 9)) == [0, 2, 2, 2, 3, 4]


def test_another_rate_keeps_the_speed(tmp_path):
    write_video(tmp_path / "a.mp4", ramp(24), fps=12)
    item = SFTDataset(str(tmp_path), **FORM)[0]
    assert close(levels_of(item), [10 * (1 + index) for index in (0, 1, 3, 4, 6, 7, 9, 10, 12)])


def test_skipped_ends(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", ramp(9))
    item = SFTDataset(str(tmp_path), **{**FORM, "skip_frms_num": 3})[0]
    assert item["num_frames"] == 3 and close(levels_of(item), [40, 50] + [60] * 7)
    with pytest.raises(DataError):
        SFTDataset(str(tmp_path), **{**FORM, "skip_frms_num": 5})[0]
    assert "only 9 frames" in caplog.text


@pytest.mark.parametrize(
    "wrong, said",
    [({"max_num_frames": 16}, "use 17"), ({"fps": 0}, "fps"), ({"video_size": [64]}, "video_size"),
     ({"skip_frms_num": -1}, "skip_frms_num")],
)  # fmt: skip
def test_wrong_parameters_are_named(folder, wrong, said):
    with pytest.raises(ConfigError, match=said):
        SFTDataset(str(folder), **{**FORM, **wrong})


@pytest.mark.parametrize(
    "video, chosen",
    [((480, 720, 49), "480x720x49"), ((1080, 1920, 500), "480x720x49"), ((1920, 1080, 30), "720x480x25"),
     ((240, 360, 8), "240x360x9"), ((500, 750, 48), "480x720x25"), ((100, 150, 100), "240x360x49")],
)  # fmt: skip
def test_each_clip_gets_the_format_that_loses_least_of_it(video, chosen):
    forms = clip_forms([[480, 720], [720, 480], [240, 360]], 8, [49, 25, 9])
    assert fitting_form(forms, *video).name == chosen


def test_buckets_of_horizontal_and_vertical_long_and_short_clips(tmp_path, caplog):
    shapes = {"wide": ((32, 64), 9), "tall": ((64, 32), 9), "brief": ((64, 32), 6), "fast": ((32, 64), 27)}
    for name, (size, count) in shapes.items():
        write_video(tmp_path / "videos" / f"{name}.mp4", ramp(9) * 3 if name == "fast" else ramp(count),
                    fps=24 if name == "fast" else 8, size=size)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    form = {"video_size": [[16, 32], [32, 16]], "fps": 8, "max_num_frames": [9, 5], "allow_no_captions": True}
    found = {bucket.form.name: bucket for bucket in SFTDataset.buckets(str(tmp_path), **form)}
    assert {name: [video.stem for video in bucket.videos] for name, bucket in found.items()} == {
        "16x32x9": ["fast", "wide"], "32x16x9": ["tall"], "32x16x5": ["brief"]}
    for name, bucket in found.items():
        height, width, frames = map(int, name.split("x"))
        assert all(item["mp4"].shape == (frames, 3, height, width) and item["num_frames"] == frames for item in bucket)
    assert close(levels_of(found["16x32x9"][0]), (ramp(9) * 3)[::3])
    assert "1 of 5 clips skipped, they cannot be read: broken.mp4" in caplog.text
    assert "have no caption" not in caplog.text
    with pytest.raises(ConfigError, match="no pair twice"):
        SFTDataset.buckets(str(tmp_path), **form | {"max_num_frames": [9, 9]})
    (tmp_path / "only" / "videos").mkdir(parents=True)
    (tmp_path / "only" / "videos" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="none of the 1 clips can be read"):
        SFTDataset.buckets(str(tmp_path / "only"), **form)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with a clip of nine frames, a copy of it, a short clip, a damaged one and one of a single frame."""
    root = tmp_path_factory.mktemp("odd")
    whole = write_video(root / "videos" / "a.mp4", ramp(9))
    (root / "videos" / "b.mp4").write_bytes(whole.read_bytes())
    write_video(root / "videos" / "c.mov", ramp(6))
    (root / "videos" / "d.mp4").write_bytes(b"no video")
    write_video(root / "videos" / "e.mp4", ramp(1))
    (root / "labels").mkdir()
    for name in "abcd":
        (root / "labels" / f"{name}.txt").write_text(name)
    return root


@pytest.mark.parametrize("short, kept", [("mask", "abce"), ("repeat", "abce"), ("skip", "ab")])
def test_what_is_not_used_is_counted_and_named_before_training(odd, caplog, short, kept):
    (bucket,) = SFTDataset.buckets(str(odd), **FORM, short_clips=short)
    assert [video.stem for video in bucket.videos] == list(kept)
    assert [record.getMessage().removeprefix(f"{odd}: ") for record in caplog.records] == [
        "1 of 5 clips have no caption, using an empty one: e.mp4",
        next(record.getMessage().removeprefix(f"{odd}: ") for record in caplog.records if "skipped" in record.message),
        "1 clips are copies of others, which so count more often: b.mp4",
        f"2 of 5 clips have less than 9 frames at 8 fps; {SHORT[short]} (data.params.short_clips: {short}): "
        "c.mov (6), e.mp4 (1)"]
    assert "1 of 5 clips skipped, they cannot be read: d.mp4 (" in caplog.text


def test_clips_with_fewer_frames_a_second_than_asked_are_counted_and_named(tmp_path, caplog):
    write_video(tmp_path / "slow.mp4", ramp(5), fps=4)
    write_video(tmp_path / "even.mp4", ramp(9), fps=8)
    write_video(tmp_path / "fast.mp4", ramp(20), fps=17)
    SFTDataset.buckets(str(tmp_path), **FORM, allow_no_captions=True)
    assert ("1 of 3 clips have fewer frames a second than data.params.fps, 8, so that frames are repeated (those that "
            "are new, of all): slow.mp4 (5 of 9)") in caplog.text


def test_a_folder_that_teaches_nothing_is_refused(odd, tmp_path, caplog):
    with pytest.raises(DataError, match="none of the 1 clips can be read, the first is .*d.mp4"):
        (tmp_path / "only").mkdir()
        (tmp_path / "only" / "d.mp4").write_bytes(b"no video")
        SFTDataset.buckets(str(tmp_path / "only"), **FORM, allow_no_captions=True)
    shutil.copy(odd / "videos" / "c.mov", tmp_path / "c.mov")
    (tmp_path / "captions.tsv").write_text("a list of an unknown kind")
    with pytest.raises(DataError, match="none of the 2 clips has a caption, .*data.params.allow_no_captions: true"):
        SFTDataset.buckets(str(tmp_path), **FORM)
    assert "captions.tsv" in caplog.text, "what is not used is said before, as it may be the reason"
    (tmp_path / "c.txt").write_text("short")
    (tmp_path / "only" / "d.mp4").unlink()
    with pytest.raises(DataError, match="all 1 clips are shorter than data.params.max_num_frames"):
        SFTDataset.buckets(str(tmp_path), **FORM, short_clips="skip")


def test_several_sizes_make_buckets_and_no_single_data_set(folder):
    with pytest.raises(ConfigError, match="several sizes or lengths make buckets"):
        SFTDataset(str(folder), **FORM | {"max_num_frames": [9, 5]})


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def test_shards_stream_items(folder, tmp_path, caplog):
    clip = (folder / "videos" / "a.mp4").read_bytes()
    broken = (folder / "videos" / "c.mp4").read_bytes()
    described = json.dumps({"caption": "told"}).encode()
    write_shard(tmp_path / "0.tar", {"0.mp4": clip, "0.txt": b"first\n", "1.mp4": broken, "1.txt": b"bad"})
    write_shard(tmp_path / "1.tar", {"2.mp4": clip, "2.json": described, "3.mp4": clip})
    (tmp_path / "2.tar").write_bytes(b"")

    def captions():
        stream = VideoDataset.create_dataset_function(str(tmp_path), None, **FORM, shuffle_buffer=4)
        items = [item for item, _ in zip(stream, range(12), strict=False)]
        assert all(item["mp4"].shape == (9, 3, 32, 32) and item["num_frames"] == 9 for item in items)
        return [item["txt"] for item in items]

    first = captions()
    assert set(first) == {"first", "told", ""} and first == captions()
    for said in ("2.tar skipped", "clip 1 of", "clip 3 of"):
        assert said in caplog.text


def items_of(tmp_path, count=6, **settings):
    stream = VideoDataset(str(tmp_path / "a.tar"), **FORM, shuffle_buffer=1, **settings)
    return [item["txt"] for item, _ in zip(stream, range(count), strict=False)]


def test_shards_follow_the_rules_of_text(folder, tmp_path, caplog):
    clip = (folder / "videos" / "a.mp4").read_bytes()
    write_shard(tmp_path / "a.tar", {
        "0.mov": clip, "0.txt": b"\n\na dog\nruns", "1.mp4": clip, "1.txt": "ein Käfer".encode("utf-16"),
        "2.webm": clip, "2.json": b'"told"', "3.mp4": clip, "3.txt": "Käfer".encode("latin-1"), "4.mp4": clip,
        "4.json": b'{"caption": ["one", "two"]}', "5.mp4": clip, "5.json": b'{"caption": 7}', "6.txt": b"no clip",
        "7.mp4": clip, "7.mov": clip, "8.mp4": clip, "8.json": b"{"})
    assert items_of(tmp_path) == ["a dog runs", "ein Käfer", "told"] * 2
    assert items_of(tmp_path, 1, caption_lines="first") == ["a dog"]
    for said in ("clip 3 of .* skipped: its .txt, line 1: not UTF-8", "clip 4 of .* under 'caption', but .'one'",
                 "clip 5 of .* but 7", "clip 6 of .* it has 0 clips among txt", "clip 7 of .* it has 2 clips among",
                 "clip 8 of .* its .json is damaged"):
        assert re.search(said, caplog.text), said


def test_shards_without_captions_are_refused_unless_allowed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(data_video, "CLIPS_BEFORE_A_CAPTION", 3)
    write_shard(tmp_path / "a.tar", {"0.mp4": (folder / "videos" / "a.mp4").read_bytes()})
    with pytest.raises(DataError, match="none of the first 3 clips of the shards has a caption"):
        items_of(tmp_path)
    assert items_of(tmp_path, allow_no_captions=True) == [""] * 6


def test_shards_without_a_readable_clip_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(data_video, "MAX_BAD_IN_A_ROW", 20)
    write_shard(tmp_path / "a.tar", {"0.mp4": b"junk", "0.txt": b"x"})
    with pytest.raises(DataError, match="in a row"):
        next(iter(VideoDataset(str(tmp_path / "{a,a}.tar"), **FORM)))
    with pytest.raises(DataError, match="no readable tar shard"):
        VideoDataset(str(tmp_path / "missing.tar"), **FORM)
