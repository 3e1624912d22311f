"""The table of reconstructions, on folders of odd clips and with any autoencoder."""
import av
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.reconstruction import main
from common.console import run
from tools import make_shapes

TRAINED = ["--base", "configs/tiny_t2v.yaml", "--device", "cpu"]


@pytest.mark.slow
def test_a_table_with_a_line_for_each_size_and_length(tmp_path, capsys):
    assert run(make_shapes.main, ["--out", str(tmp_path), "--clips", "2"]) == 0
    capsys.readouterr()
    assert run(main, ["--base", "configs/tiny_t2v.yaml", "--device", "cpu", "--data", str(tmp_path), "--frames", "9",
                      "17", "33", "--sizes", "64x64", "--picture", str(tmp_path / "shown.png")]) == 0
    assert Image.open(tmp_path / "shown.png").size == (2 + 2 * 130, 2 + 2 * 130), "two clips above what is made of them"
    lines = table(capsys.readouterr().out)
    assert [line[:4] for line in lines] == [["9", "64 x 64", "2", "0"], ["17", "64 x 64", "2", "0"],
                                            ["33", "64 x 64", "0", "2"]]
    assert all(float(line[4]) > 30 and float(line[5]) > 0.9 for line in lines[:2]) and lines[2][4] == "-"


def clip(path, frames, height, width, flat=False, pixels="yuv420p", codec="libx264"):
    """Write a clip of a square that moves, or of nothing."""
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for number in range(frames):
            image = np.full((height, width, 3), 60, np.uint8)
            if not flat:
                image[4:12, number:number + 8] = 200, 40, 20
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def table(text):
    """Return the cells of the lines of a table, without its heading."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]


def test_odd_clips_are_measured_or_left_out_and_named(tmp_path, capsys, caplog):
    clip(tmp_path / "gray.mkv", 12, 24, 31, pixels="gray", codec="ffv1")
    clip(tmp_path / "flat.mp4", 9, 16, 16, flat=True)
    clip(tmp_path / "one.mp4", 1, 20, 48)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "notes.md").write_text("not a clip")
    assert run(main, [*TRAINED, "--data", str(tmp_path), "--frames", "9", "1", "--sizes", "16x24"]) == 0
    lines = table(capsys.readouterr().out)
    assert [line[:4] for line in lines] == [["9", "16 x 24", "2", "2"], ["1", "16 x 24", "3", "1"]]
    assert "nan" not in str(lines)
    assert "1 clip left out, as unreadable: " in caplog.text and "text.mp4 (not a video but a text file)" in caplog.text
    assert "with fewer than 9 frames at 8 a second" in caplog.text and "notes.md" in caplog.text


def test_a_folder_of_nothing_that_can_be_measured_is_one_line(tmp_path, capsys):
    clip(tmp_path / "one.mp4", 1, 20, 48)
    assert run(main, [*TRAINED, "--data", str(tmp_path), "--frames", "9", "--sizes", "16x16"]) == 2
    found = capsys.readouterr()
    assert "no clip of" in found.err and "is readable and long enough" in found.err
    assert table(found.out) == [["9", "16 x 16", "0", "1", *"---------"]]


def test_clips_without_edges_have_no_share_of_them(tmp_path, capsys):
    clip(tmp_path / "flat.mp4", 1, 16, 16, flat=True)
    assert run(main, [*TRAINED, "--data", str(tmp_path), "--frames", "1", "--sizes", "16x16"]) == 0
    assert table(capsys.readouterr().out)[0][-4:-1] == ["-", "-", "-"]


def test_the_configuration_of_an_autoencoders_training_will_do_with_its_weights(tmp_path, capsys):
    clip(tmp_path / "a.mp4", 1, 16, 16)
    where = ["--device", "cpu", "--data", str(tmp_path), "--frames", "1", "--sizes", "16x16"]
    tables = []
    for words in (["--base", "configs/tiny_t2v.yaml"],
                  ["--base", "configs/tiny_vae.yaml", "args.load=checkpoints/tiny/vae/3d-vae.pt"]):
        assert run(main, [*words, *where]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert run(main, ["--base", "configs/tiny_vae.yaml", *where]) == 2
    assert "random weights, which decode to noise; name its weights in args.load" in capsys.readouterr().err


def test_a_reconstruction_that_is_not_finite_is_one_line(tmp_path, capsys):
    weights = torch.load("checkpoints/tiny/vae/3d-vae.pt", weights_only=True)["state_dict"]
    weights["decoder.conv_out.conv.weight"] = torch.full((3, 16, 3, 3, 3), 3e38)
    torch.save(weights, tmp_path / "vae.pt")
    clip(tmp_path / "a.mp4", 1, 16, 16)
    assert run(main, [*TRAINED, "--data", str(tmp_path), "--frames", "1", "--sizes", "16x16",
                      f"model.first_stage_config.params.ckpt_path={tmp_path / 'vae.pt'}"]) == 2
    assert "a.mp4 is not finite" in capsys.readouterr().err


@pytest.mark.parametrize("words, says", [
    (["--frames", "5"], "5 frames cannot be decoded, only 8k + 1"),
    (["--picture", "a.mp4"], "a.mp4 must end in .png or .webp"),
    (["--picture", "/proc/none/a.png"], "/proc/none cannot be written"),
    (["--sizes", "64"], "64 is not HEIGHTxWIDTH"), (["--sizes", "64x8"], "at least 16"),
    (["--sizes", "64x60"], "64x60 cannot be encoded, only multiples of 8"),
    (["--count", "0"], "--count: 0 leaves no clip"), (["--fps", "nan"], "--fps: nan is no rate"),
    (["--frames", "9", "model.first_stage_config.params.ckpt_path=null"], "ckpt_path is null"),
    (["--frames", "17", "model.first_stage_config.params.decoder_config.params.temporal_compress_times=16"],
     "17 frames cannot be decoded, only 32k + 1"),
    (["model.first_stage_config.target=torch.nn.Identity"], "there is no autoencoder to measure")])
def test_mistakes_get_one_line(words, says, capsys):
    assert run(main, [*TRAINED, "--data", "nowhere", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
