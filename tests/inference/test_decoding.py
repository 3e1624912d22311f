"""Tests of decoding to files, through the script: saved latents, signals and full disks."""
import json
import os
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from common.files import LOCK, REPOSITORY
from media import videos
from media.records import FPS_OF_NOISE, LATENTS, RECORD, VIDEO, load_latents, save_latents, verified_record
from sample_video import main

pytestmark = pytest.mark.slow

PROMPT = "0_a_red_circle/0"


@pytest.fixture
def run(small_model, tmp_path, capfd):
    """A function that runs the script with one prompt; returns exit code and standard error."""
    (tmp_path / "prompts.txt").write_text("a red circle\n")

    def call(*words, folder="out", source="prompts.txt"):
        code = main(["--base", str(small_model / "t2v.yaml"), str(REPOSITORY / "configs" / "inference.yaml"), "--seed",
                     "3", "--input-file", str(tmp_path / source), "--output-dir", str(tmp_path / folder), *words])
        return code, capfd.readouterr().err
    return call


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


@pytest.fixture
def latents(run, tmp_path):
    assert run("--only-save-latents", folder="latents")[0] == 0
    return tmp_path / "latents" / PROMPT


def test_latents_and_their_record_are_verified_and_decoded_in_place(run, latents):
    record = verified_record(latents)
    assert list(record["files"]) == [LATENTS] and record["prompt"] == "a red circle"
    assert run("--input-type", "latents", source="latents", folder="latents")[0] == 0
    decoded = verified_record(latents)
    assert list(decoded["files"]) == [VIDEO, LATENTS] and decoded["files"][LATENTS] == record["files"][LATENTS]
    assert decoded["prompt"] == "a red circle" and decoded["decoded_from"] == str(latents / LATENTS)


def test_latents_outlive_everything_beside_them(run, latents):
    before = (latents / LATENTS).read_bytes()
    (latents / RECORD).unlink()
    assert run("--input-type", "latents", source="latents", folder="latents")[0] == 0
    assert (latents / LATENTS).read_bytes() == before
    (latents / VIDEO).write_bytes(b"another video")
    assert run("--input-type", "latents", "--vae-tiling", source="latents", folder="latents")[0] == 0
    assert (latents / LATENTS).read_bytes() == before and verified_record(latents) is not None


def test_decoding_in_place_keeps_what_the_latents_are_made_from(run, latents, caplog):
    caplog.set_level("INFO")
    assert run("--input-type", "latents", source="latents", folder="latents")[0] == 0
    assert run("--only-save-latents", "--resume", folder="latents")[0] == 0
    assert "1 finished video(s) are kept" in caplog.text and (latents / VIDEO).is_file()
    assert run("--resume", folder="latents")[0] == 0
    assert "it was decoded from latents by a run of its own" in caplog.text


def test_latents_of_another_codec_are_refused_or_named(run, latents, small_model, tmp_path, caplog):
    for words, says in ((("model.scale_factor=0.3",), "was sampled with model.scale_factor"),
                        (("model.first_stage_config.params.ckpt_path=null",), "decodes to noise")):
        code, err = run("--input-type", "latents", *words, source="latents", folder="later")
        assert code == 2 and err.count("\n") == 1 and says in err and not (tmp_path / "later").exists()
    weights = torch.load(small_model / "3d-vae.pt", weights_only=True)
    inner = weights["state_dict"] if "state_dict" in weights else weights
    inner[next(iter(inner))].mul_(1.01)
    torch.save(weights, tmp_path / "other.pt")
    assert run("--input-type", "latents", f"model.first_stage_config.params.ckpt_path={tmp_path / 'other.pt'}",
               source="latents", folder="later")[0] == 0
    assert "1 of 1 latents were sampled for another autoencoder" in caplog.text


@pytest.mark.parametrize("damage", ["other latents", "no record", "damaged record"])
def test_a_record_of_other_latents_is_not_copied(run, latents, tmp_path, caplog, damage):
    if damage == "other latents":
        save_file({"latents": load_latents(latents / LATENTS)[0] * 0.5}, latents / LATENTS)
    elif damage == "no record":
        (latents / RECORD).unlink()
    else:
        (latents / RECORD).write_text("[")
    code, _ = run("--input-type", "latents", source="latents", folder="later")
    record = verified_record(tmp_path / "later" / PROMPT)
    assert code == 0 and set(record) == {"files", "decoded_from"} and list(record["files"]) == [VIDEO]
    assert ("not copied" in caplog.text) == (damage != "no record")


@pytest.mark.parametrize("content, says", [
    (torch.full((5, 16, 4, 4), float("nan")), "not finite"),
    (torch.zeros(5, 3, 4, 4), "this model decodes"),
    (torch.zeros(5, 16, 4), "shape (5, 16, 4)"),
])
def test_latents_are_checked_before_any_is_decoded(run, latents, tmp_path, content, says):
    (tmp_path / "latents" / "z").mkdir()
    save_file({"latents": content}, tmp_path / "latents" / "z" / LATENTS)
    code, err = run("--input-type", "latents", source="latents", folder="later")
    line = err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and f"z/{LATENTS}" in line and says in line
    assert not (tmp_path / "later").exists() or not names(tmp_path / "later")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["first frame", "last frame", "contact sheet", "flush", "rename"])
def test_a_signal_while_decoding_leaves_whole_files_alone(run, tmp_path, monkeypatch, number, place):
    def interrupted(function, when=lambda *words: True):
        def called(*words, **options):
            if when(*words):
                os.kill(os.getpid(), number)
            return function(*words, **options)
        return called
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    frame = {"first frame": 0, "last frame": 16}.get(place)
    if frame is not None:
        monkeypatch.setattr(videos, "_to_yuv", interrupted(videos._to_yuv, lambda image, index, *form: index == frame))
    elif place == "contact sheet":
        monkeypatch.setattr(videos, "_save_contact_sheet", interrupted(videos._save_contact_sheet))
    else:
        name = {"flush": "fsync", "rename": "replace"}[place]
        monkeypatch.setattr(os, name, interrupted(getattr(os, name)))
    try:
        assert run()[0] == 130
    except SystemExit as end:
        assert end.code == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    left = names(tmp_path / "out")
    assert not [name for name in left if "partial" in name or name.endswith(RECORD)]
    assert len(left) == 0 or place == "rename"


def test_a_full_disk_ends_the_run_with_a_line_and_keeps_what_was_there(run, tmp_path):
    assert run()[0] == 0
    before = verified_record(tmp_path / "out" / PROMPT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # no file may grow larger
    try:
        code, err = run("--seed", "4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and f"{VIDEO} cannot be written (File too large)" in line
    assert verified_record(tmp_path / "out" / PROMPT) == before and len(names(tmp_path / "out")) == 3


def test_a_filmstrip_of_an_earlier_video_goes_with_it(run, tmp_path):
    assert run("--save-denoised-every", "2")[0] == 0 and (tmp_path / "out" / PROMPT / "denoised.png").is_file()
    assert run("--seed", "4")[0] == 0 and names(tmp_path / "out" / PROMPT) == [VIDEO, "frames.png", RECORD]


def test_a_missing_encoder_is_told_before_weights_are_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "ENCODER", "libx999")
    code, err = run()
    assert code == 2 and err.count("\n") == 1 and "libx999" in err and not (tmp_path / "out").exists()
    assert run("--only-save-latents")[0] == 0
    code, err = run("--input-type", "latents", source="out", folder="later")
    assert code == 2 and err.count("\n") == 1 and "libx999" in err and not (tmp_path / "later").exists()


def test_a_record_is_json_with_every_prompt(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a \U0001f600 “circle”\n", encoding="utf-8")
    assert run()[0] == 0
    (record,) = (tmp_path / "out").rglob(RECORD)
    assert json.loads(record.read_text(encoding="utf-8"))["prompt"] == "a \U0001f600 “circle”"


def test_files_of_an_earlier_run_go_with_its_record(run, tmp_path):
    assert run("--save-denoised-every", "2")[0] == 0 and run("--only-save-latents", "--seed", "4")[0] == 0
    assert names(tmp_path / "out" / PROMPT) == [LATENTS, RECORD]
    assert run("--seed", "5")[0] == 0 and names(tmp_path / "out" / PROMPT) == [VIDEO, "frames.png", RECORD]


@pytest.mark.parametrize("key", ["plan", "resume"])
def test_saved_latents_have_no_plan_and_are_all_decoded(run, latents, key):
    code, err = run("--input-type", "latents", f"--{key}", source="latents", folder="later")
    assert code == 2 and f"args.{key} does not work with args.input_type latents" in err


def test_noise_is_no_video_and_other_keys_have_no_effect(run, latents, tmp_path, caplog):
    save_latents(tmp_path / "noise.safetensors", load_latents(latents / LATENTS)[0], 8, rate=FPS_OF_NOISE)
    code, err = run("--input-type", "latents", source="noise.safetensors", folder="later")
    assert code == 2 and "holds the noise that a clip was inverted to" in err
    assert run("--input-type", "latents", "--num-samples", "3", source="latents", folder="later")[0] == 0
    assert "args.num_samples: 3 has no effect: decoding latents does not read it" in caplog.text
    assert "args.seed" in caplog.text and "args.input_type" not in caplog.text
