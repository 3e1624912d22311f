"""Tests of resumed sampling runs: what would change a video makes it again, and nothing else does."""
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from arguments import get_args
from common.files import REPOSITORY
from inference.checks import check_run
from inference.jobs import plan_jobs
from inference.made_from import run_made_from
from inference.prompts import read_prompts
from inference.resuming import unfinished
from media.videos import write_video
from sample_video import main
from weights.checkpoint import find_checkpoint

pytestmark = pytest.mark.slow

GUIDER = "model.sampler_config.params.guider_config.params."


@pytest.fixture
def words_of(small_model, tmp_path):
    """A function that returns the command line of a resumed run with one prompt."""
    def call(*words, model="t2v", prompts="a red circle\n", resume=True):
        (tmp_path / "prompts.txt").write_text(prompts)
        return ["--base", str(small_model / f"{model}.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
                "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out"),
                "--only-save-latents", *(["--resume"] if resume else []), *words]
    return call


@pytest.fixture
def run(words_of, caplog):
    """A function that runs the script; returns what it said of earlier videos."""
    def call(*words, **kinds):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert main(words_of(*words, **kinds)) == 0
        return [line for line in caplog.messages if "kept" in line or "again" in line]
    return call


KEPT = ["1 finished video(s) are kept: 0_a_red_circle/0"]


def test_what_cannot_change_a_video_keeps_it(run, tmp_path, small_model):
    assert run() == []
    moved = shutil.copytree(small_model, tmp_path / "moved")
    assert run() == run("--batch-size", "4") == run("--offload", "model") == KEPT
    assert run("model.compile_first_stage=false", f"args.load={moved}/t2v", "args.sampling_num_frames=5",
               f"model.first_stage_config.params.ckpt_path={moved}/3d-vae.pt") == KEPT
    assert run("--num-samples", "2") == KEPT, "the first of two"
    assert run(GUIDER + "scale=6.0") == KEPT, "6 is 6.0"


def test_what_would_change_a_video_makes_it_again(run, words_of, caplog):
    run()
    for words, why in (
            (["--num-inference-steps", "4"], "model.sampler_config.params.num_steps was 3, is 4"),
            (["--guidance-scale", "2"], GUIDER + "scale was 6, is 2.0"), (["--num-frames", "9"], "frames was 17, is 9"),
            (["--seed", "5"], "seed was 0, is 5"), (["args.sampling_fps=4"], "fps was 8, is 4"),
            (["--negative-prompt", "blue"], "negative_prompt was None, is 'blue'"),
            (["model.scale_factor=0.8"], "model.scale_factor was 0.7, is 0.8"),
            (["--vae-tiling"], "vae_tiling was False, is True"),
            (["--bf16"], "dtype was 'torch.float32', is 'torch.bfloat16'"),
            (["model.sampler_config.target=sgm.sampling.HeunEDMSampler"], "model.sampler_config.target was")):
        args = get_args(words_of(*words))
        limits = check_run(args)
        prompts = read_prompts(args.sampling.input_file, None)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert unfinished(plan_jobs(prompts, limits, args.sampling, run=run_made_from(args)), args.sampling)
        assert f"1 video(s) are made again: 0_a_red_circle/0 ({why}" in caplog.text
    assert "num_steps was 3, is 4" in run("--num-inference-steps", "4")[0]
    assert run("--num-inference-steps", "4") == KEPT, "the record is that of the new one"


def test_the_contents_of_weights_count(run, small_model, tmp_path):
    moved = shutil.copytree(small_model, tmp_path / "moved")
    load = ["args.load=" + str(moved / "t2v"),
            f"model.first_stage_config.params.ckpt_path={moved}/3d-vae.pt",
            f"model.conditioner_config.params.emb_models.0.params.model_dir={moved}/t5"]
    run(*load)
    file = find_checkpoint(moved / "t2v")
    content = torch.load(file)
    first = next(iter(content["module"].values()))
    first.flatten()[0] += 1
    torch.save(content, file)
    (said,) = run(*load)
    assert said.endswith("0_a_red_circle/0 (transformer: other contents)")
    (moved / "t5" / "config.json").write_text((moved / "t5" / "config.json").read_text() + " ")
    (said,) = run(*load)
    assert said.endswith("0_a_red_circle/0 (text encoder: other contents)")


def test_the_contents_of_images_and_clips_count(run, tmp_path):
    for model, name, words in (("i2v", "a.png", []), ("t2v", "a.mp4", ["--strength", "0.7"])):
        for shade in (10, 200):
            if model == "i2v":
                Image.new("RGB", (40, 40), (shade, 30, 30)).save(tmp_path / name)
            else:
                write_video(tmp_path / name, [np.full((17, 32, 32, 3), shade, np.uint8)], 8)
            said = run(*words, model=model, prompts=f"a {model}@@{name}")
            assert said == ([] if shade == 10 else [
                f"1 video(s) are made again: 0_a_{model}/0 ({'image' if model == 'i2v' else 'clip'}: other contents)"])
        shutil.copy(tmp_path / name, tmp_path / f"copy{name}")
        assert "kept" in run(*words, model=model, prompts=f"a {model}@@copy{name}")[0]
    assert "strength was 0.7, is 1.0" in run("--strength", "1", prompts="a t2v@@a.mp4")[0]


def test_a_video_without_its_contact_sheet_is_made_again(tmp_path, small_model):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    words = ["--base", str(small_model / "t2v.yaml"), str(REPOSITORY / "configs" / "inference.yaml"), "--resume",
             "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    sheet = tmp_path / "out" / "0_a_red_circle" / "0" / "frames.png"
    sheet.unlink()
    assert main(words) == 0 and sheet.is_file()


def test_what_was_not_finished_is_made_again(run, tmp_path):
    run()
    folder = tmp_path / "out" / "0_a_red_circle" / "0"
    (folder / "latents.safetensors").write_bytes(b"other")
    assert "do not belong together" in run()[0]
    record = json.loads((folder / "metadata.json").read_text())
    del record["made_from"]
    (folder / "metadata.json").write_text(json.dumps(record))
    assert "its record does not say what it is made from" in run()[0]
    assert run(resume=False) == [] and run() == KEPT
