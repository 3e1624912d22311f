"""Tests of videos and contact sheets on disk."""
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError, NumericalError
from common.files import check_writable, whole_file, whole_files
from common.seeds import generator_for
from media import videos
from media.records import LATENTS, RECORD, save_latents, verified_record, write_record
from media.videos import SHEET, VIDEO, to_pixels, write_outputs, write_video


def moving_bar() -> torch.Tensor:
    video = torch.full((3, 9, 32, 48), -0.5)
    for t in range(9):
        video[:, t, :, 4 * t:4 * t + 8] = torch.tensor([0.8, -0.6, 0.1])[:, None, None]
    return video


def moving_bar_pixels() -> np.ndarray:
    return to_pixels(moving_bar())


@contextmanager
def limited_file_size(size):
    """Let no file grow larger, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_back(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    return meta, np.stack([np.frombuffer(f, np.uint8).reshape(32, 48, 3) for f in reader])


def test_pieces_become_one_video_of_high_quality(tmp_path):
    video = moving_bar()
    write_outputs(tmp_path, iter([video[:, :1], video[:, 1:5], video[:, 5:]]), fps=8)
    meta, frames = read_back(tmp_path / VIDEO)
    assert meta["fps"] == 8 and frames.shape == (9, 32, 48, 3)
    error = np.mean((frames.astype(float) - to_pixels(video)) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
    assert {p.name for p in tmp_path.iterdir()} == {VIDEO, "frames.png"}


def test_the_same_frames_give_the_same_file_on_any_number_of_cores(tmp_path):
    noise = torch.rand(3, 9, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_outputs(tmp_path / "a", [noise], fps=8)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        write_outputs(tmp_path / "b", [noise], fps=8)
    finally:
        os.sched_setaffinity(0, cores)
    assert (tmp_path / "a" / VIDEO).read_bytes() == (tmp_path / "b" / VIDEO).read_bytes()


@pytest.mark.parametrize("size", [(64, 64), (720, 1280), (33, 47)])
def test_colours_are_those_of_the_tags(tmp_path, size):
    flat = np.full((3, *size, 3), (220, 40, 40), np.uint8)
    write_video(tmp_path / "a.mp4", [flat], fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    tags = {(f.color_primaries, f.color_trc, f.colorspace, f.color_range, f.format.name) for f in frames}
    assert tags == {(1, 1, 1, 1, "yuv420p")} and len(frames) == 3
    assert [round(float(f.pts * f.time_base), 3) for f in frames] == [0, 0.125, 0.25]
    shown = np.stack([f.to_ndarray(format="rgb24") for f in frames]).astype(int)
    assert shown.shape == (3, *(side + side % 2 for side in size), 3) and abs(shown - (220, 40, 40)).max() <= 2
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_videos_last_as_long_as_their_frames(tmp_path, frames):
    write_video(tmp_path / "a.mp4", [moving_bar_pixels()[:frames]], fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration == pytest.approx(frames / 8 * 1e6, abs=2)


def test_an_encoder_that_loses_frames_is_noticed(tmp_path, monkeypatch):
    encode = videos._to_yuv
    monkeypatch.setattr(videos, "_to_yuv", lambda frame, number, *form: encode(frame, number - number % 2, *form))
    with pytest.raises(DataError, match="a.mp4"):
        write_video(tmp_path / "a.mp4", [moving_bar_pixels()], fps=8)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    noise = torch.rand(3, 9, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with limited_file_size(60_000):
        for name, write in (("000000.mp4", lambda: write_outputs(tmp_path, [noise], fps=8)),
                            ("latents.safetensors", lambda: save_latents(tmp_path / LATENTS, noise, 8)),
                            ("metadata.json", lambda: write_record(tmp_path, {"prompt": "a" * 70_000}))):
            with pytest.raises(DataError, match=f"{name} cannot be written .*File too large"):
                write()
    assert not list(tmp_path.iterdir())


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "ENCODER", "libx999")
    with pytest.raises(ConfigError, match="libx999"):
        write_video(tmp_path / "a.mp4", [moving_bar_pixels()], fps=8)
    assert not list(tmp_path.iterdir())


def test_decoding_that_fails_leaves_no_video(tmp_path):
    def pieces():
        yield moving_bar()
        yield torch.full((3, 4, 32, 48), float("nan"))
    with pytest.raises(NumericalError, match="not finite"):
        write_outputs(tmp_path, pieces(), fps=8)
    assert not list(tmp_path.iterdir())


def test_pixels_cover_the_range():
    frames = torch.tensor([-2.0, -1.0, 0.0, 1.0, 5.0]).expand(3, 1, 1, 5)
    assert to_pixels(frames)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def write_with_record(folder, video, prompt):
    with whole_files() as files:
        write_outputs(folder, [video], 8, files)
        write_record(folder, {"prompt": prompt}, VIDEO, files=files)


def test_video_and_record_appear_together(tmp_path, monkeypatch):
    write_with_record(tmp_path, moving_bar(), "a")
    before = (tmp_path / VIDEO).read_bytes()
    for break_off in (os.fsync, os.replace):  # the first file cannot be flushed, or renamed
        with monkeypatch.context() as patched:
            patched.setattr(os, break_off.__name__, lambda *names: (_ for _ in ()).throw(OSError(28, "full")))
            with pytest.raises(DataError, match="000000.mp4 cannot be written"):
                write_with_record(tmp_path, -moving_bar(), "b")
        assert (tmp_path / VIDEO).read_bytes() == before
    write_with_record(tmp_path, moving_bar(), "a")
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (seen.append(names[1].name), replace(*names)))
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: (seen.append(path.name), os.unlink(path))
                        if path.exists() else None)
    write_with_record(tmp_path, -moving_bar(), "b")
    assert seen == [RECORD, SHEET, VIDEO, SHEET, RECORD]  # the old record goes first, the new one comes last
    assert verified_record(tmp_path)["prompt"] == "b"


def test_a_record_that_cannot_be_written_leaves_the_earlier_video(tmp_path):
    write_with_record(tmp_path, moving_bar(), "a")
    for video, prompt, says in ((-moving_bar(), "b" * 70_000, "metadata.json cannot be written .File too large"),
                                (torch.full((3, 9, 32, 48), float("nan")), "b", "not finite")):
        with limited_file_size(60_000), pytest.raises((DataError, NumericalError), match=says):
            write_with_record(tmp_path, video, prompt)
        assert verified_record(tmp_path)["prompt"] == "a"
        assert {path.name for path in tmp_path.iterdir()} == {VIDEO, SHEET, RECORD}


def test_the_same_frames_make_the_same_file(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    frames = np.stack([np.roll(picture, 3 * i, 1) for i in range(17)])
    files = set()
    for i in range(12):
        kept = [bytes([i]) * (20000 * j) for j in range(1, 8)]  # other memory around the encoder's
        write_video(tmp_path / VIDEO, [frames], 8)
        files.add((tmp_path / VIDEO).read_bytes())
        del kept
    assert len(files) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--output-dir"):
        check_writable(tmp_path / "file" / "below", "--output-dir")


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_neighbouring_seeds_are_unrelated():
    draws = torch.stack([torch.randn(4000, generator=generator_for(0, i, j)) for i in range(3) for j in range(3)])
    assert (torch.corrcoef(draws) - torch.eye(9)).abs().max() < 0.1
    assert torch.equal(torch.randn(3, generator=generator_for(0, 1)), torch.randn(3, generator=generator_for(0, 1)))
