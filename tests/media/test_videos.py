"""Tests of videos, contact sheets, latents and records on disk."""
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from common.errors import DataError, NumericalError
from common.files import check_writable, whole_file
from common.seeds import generator_for
from media.records import RECORD, find_latents, is_finished, load_latents, save_latents, write_record
from media.videos import VIDEO, to_pixels, write_outputs


def moving_bar() -> torch.Tensor:
    video = torch.full((3, 9, 32, 48), -0.5)
    for t in range(9):
        video[:, t, :, 4 * t:4 * t + 8] = torch.tensor([0.8, -0.6, 0.1])[:, None, None]
    return video


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


def test_the_same_frames_give_the_same_file(tmp_path):
    for name in "ab":
        write_outputs(tmp_path / name, [moving_bar()], fps=8)
    assert (tmp_path / "a" / VIDEO).read_bytes() == (tmp_path / "b" / VIDEO).read_bytes()


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


def test_latents_round_trip_and_are_found(tmp_path):
    z = torch.randn(5, 4, 2, 2)
    save_latents(tmp_path / "0_a" / "0" / "latents.safetensors", z, fps=16)
    ((path, relative),) = find_latents(str(tmp_path))
    loaded, fps = load_latents(path)
    assert torch.equal(loaded, z) and fps == 16 and str(relative) == "0_a/0"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="has no readable latents"):
        load_latents(path)
    with pytest.raises(DataError, match="does not exist"):
        find_latents(str(tmp_path / "nowhere"))


def test_only_finished_videos_of_the_same_prompt_and_seed_count(tmp_path):
    (tmp_path / VIDEO).write_bytes(b"video")
    assert not is_finished(tmp_path, "a", 1, False)
    write_record(tmp_path, {"prompt": "a", "seed": 1})
    assert is_finished(tmp_path, "a", 1, False)
    assert not is_finished(tmp_path, "b", 1, False) and not is_finished(tmp_path, "a", 2, False)
    assert not is_finished(tmp_path, "a", 1, True)
    (tmp_path / RECORD).write_text("{")
    assert not is_finished(tmp_path, "a", 1, False)


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
