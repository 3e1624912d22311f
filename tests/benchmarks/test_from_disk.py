"""Tests of benchmarks.from_disk at a size that takes seconds, and of the command that stands for it on a CPU."""
import json

import pytest

from benchmarks import from_disk, full_size
from benchmarks.command_runs import RunFailed, completed, peak_of
from benchmarks.random_folder import t5_of_width


def ran(words: list[str]) -> tuple[str, int]:
    """Stand for `peak_of`: return what the plan, the imports or the run would write, and a peak of memory."""
    if words[-1] == "--plan":
        return "memory: at most 2 GB on cpu (VAE decoder)\ntime: about 3 min for the video", 0
    if words[0] == "-c":
        return "", 5 * 10**8
    assert "args.fp16=false" in words and words[words.index("--num-frames") + 1] == "9"
    return "1 video(s); seconds: {'model load': 9.0, 'diffusion sampling': 90.0, 'decode and save': 60.0}", 3 * 10**9


def test_a_video_from_a_folder_is_set_beside_its_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(from_disk, "peak_of", ran)
    folder = tmp_path / "folder"
    from_disk.main([str(folder), "--preset", "tiny_t2v", "--dtype", "fp32"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[2:] == [["memory", "2.00 GB", "2.50 GB", "0.80"],
                         ["sampling, decoding and saving", "180 s", "150 s", "1.20"]]
    encoder = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert encoder["d_model"] == 64 and t5_of_width(4096)["num_layers"] == 24
    assert {part.name for part in folder.iterdir()} == {
        "transformer", "vae", "text_encoder", "tokenizer", "model_index.json"}


@pytest.mark.parametrize("words", [[], ["--folder", "weights", "--dtype", "fp32", "--save"]])
def test_on_a_cpu_the_full_size_is_one_video_from_disk(words, monkeypatch):
    given = []
    monkeypatch.setattr(from_disk, "main", given.append)
    full_size.main(["--device", "cpu", *words])
    options = from_disk.read_options(given[0])
    assert (options.preset, options.num_frames) == ("cogvideox_2b", 9)
    assert (options.dtype, options.save) == (("fp32", True) if words else ("bf16", False))
    assert options.folder.name == ("weights" if words else "random_2b") and not options.folder.exists()


def test_a_command_that_fails_is_named_with_its_error():
    with pytest.raises(RunFailed, match=r"ended with code 1; error: no file missing.yaml"):
        completed(["-c", "raise SystemExit('error: no file missing.yaml')"])
    with pytest.raises(RunFailed, match=r"-c 1/0 ended with code 1; without an error of its own"):
        peak_of(["-c", "1/0"])
    assert completed(["-c", "import os; print(os.environ['GIVEN'])"], {"GIVEN": "so"}) == "so\n"
    told, peak = peak_of(["-c", "print(len(b'x' * 2**26))"])
    assert told.startswith(f"{2**26}\n") and 2**26 < peak < 2**28
