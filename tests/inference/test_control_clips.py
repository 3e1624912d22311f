"""Sampling runs of a model with control input, whose prompts name the clips that videos follow."""
import json
import logging

import numpy as np
import pytest
import torch

from common.files import REPOSITORY
from media.records import load_latents
from media.videos import write_video
from sample_video import main

CONTROLLED = ("model.noised_image_input=false", "model.control_input=true")  # the weights have the same shapes
NAMES = ("0_a_red_circle/0", "1_a_red_circle/0")


@pytest.fixture
def run(small_model, tmp_path, capfd):
    """A function that runs the script with prompt lines; returns exit code, standard error and the output folder."""
    for name, frames, seed in (("clip", 20, 0), ("other", 20, 1), ("long", 40, 2), ("short", 12, 3)):
        pixels = np.random.default_rng(seed).integers(0, 256, (frames, 36, 40, 3), np.uint8)
        write_video(tmp_path / f"{name}.mp4", [pixels], 8)

    def call(*words, lines="a red circle@@clip.mp4", out="out", keys=CONTROLLED):
        (tmp_path / "prompts.txt").write_text(lines)
        code = main(["--base", str(small_model / "i2v.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
                     "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / out), "--seed", "3",
                     "--only-save-latents", *keys, *words])
        return code, capfd.readouterr().err, tmp_path / out
    return call


def latents_of(folder, name=NAMES[0]):
    return load_latents(folder / name / "latents.safetensors")[0]


@pytest.mark.slow
def test_a_video_follows_its_own_clip_alone_and_in_a_batch(run):
    code, _, one = run(out="one")
    record = json.loads((one / NAMES[0] / "metadata.json").read_text())
    assert code == 0 and record["control"].endswith("clip.mp4") and record["clip"] is None
    assert "contents.control" in record["made_from"]
    both = run("--batch-size", "2", lines="a red circle@@clip.mp4\na red circle@@other.mp4", out="both")[2]
    torch.testing.assert_close(latents_of(both), latents_of(one), atol=1e-4, rtol=1e-4)
    assert (latents_of(run(lines="a red circle@@other.mp4", out="other")[2]) - latents_of(one)).abs().max() > 1e-3


@pytest.mark.slow
def test_a_model_trained_without_some_control_clips_needs_none_and_guides_by_them(run):
    code, _, both = run("model.control_dropout=0.1", "--batch-size", "2", lines="a red circle@@clip.mp4\na red circle",
                        out="both")
    assert code == 0 and json.loads((both / NAMES[1] / "metadata.json").read_text())["control"] is None
    free, followed = latents_of(both, NAMES[1]), latents_of(run(out="one")[2])
    torch.testing.assert_close(latents_of(both), followed, atol=1e-4, rtol=1e-4)
    guider = "model.sampler_config.params.guider_config={{target: sgm.modules.diffusionmodules.guiders.{}, params: {}}}"
    plain, strong = (latents_of(run("model.control_dropout=0.1", guider.format(*words), out=words[0])[2]) for words in (
        ("VanillaCFG", "{scale: 1.5}"), ("ControlCFG", "{scale: 1.5, control_scale: 30}")))
    assert (strong - plain).abs().max() > 1e-3 and (free - followed).abs().max() > 1e-3


@pytest.mark.slow
def test_it_composes_with_offload_stored_text_embeddings_and_one_by_one(run, tmp_path):
    whole = latents_of(run(out="whole")[2])
    for words in (["--offload", "model"], ["--offload", "sequential"], ["model.guidance_one_by_one=true"]):
        torch.testing.assert_close(latents_of(run(*words, out=words[-1])[2]), whole, atol=1e-4, rtol=1e-4)
    texts = str(tmp_path / "texts.safetensors")
    assert run("--save-text-embeddings", texts)[0] == 0
    stored = run("--text-embeddings", texts, out="stored")[2]
    torch.testing.assert_close(latents_of(stored), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_longer_videos_follow_longer_clips_in_windows(run, caplog):
    code, _, folder = run("--num-frames", "33", lines="a red circle@@long.mp4")
    assert code == 0 and "in windows of 5 latent frames" in caplog.text and latents_of(folder).shape == (9, 4, 4, 4)


@pytest.mark.slow
def test_resuming_makes_a_video_again_if_its_control_clip_has_other_contents(run, tmp_path, caplog):
    run()
    with caplog.at_level(logging.INFO):
        run("--resume")
        assert "1 finished video(s) are kept" in caplog.text
        (tmp_path / "clip.mp4").write_bytes((tmp_path / "other.mp4").read_bytes())
        caplog.clear()
        run("--resume", lines="a red circle@@./clip.mp4")
    assert "0_a_red_circle/0 (control: other contents)" in caplog.text


def test_the_plan_tells_of_control_clips_and_counts_their_encoding(run, caplog):
    with caplog.at_level(logging.INFO):
        assert run("--plan")[0] == 0
    assert "control clips: 17 frames at 8 fps, resized to cover 32 x 32, cropped at the centre" in caplog.text
    assert "images:" not in caplog.text and "VAE encoder" in caplog.text


@pytest.mark.parametrize("words, line, says", [
    (["--strength", "0.7"], "a@@clip.mp4", "args.strength does not work with model.control_input"),
    (["--invert", "--plan"], "a@@clip.mp4", "args.invert does not work with model.control_input"),
    (["--continue-from", "3"], "a@@clip.mp4", "args.continue_from does not work with model.control_input"),
    (["--segments", "2", "--plan"], "a@@clip.mp4", "args.segments does not work with model.control_input"),
    ([], "a", "this model needs a control clip; write prompt@@path/to/control.mp4"),
    ([], "a@@nowhere.mp4", "control clip nowhere.mp4 does not exist"),
    ([], "a@@clip.mp4@@other.mp4", "@@ stands there 2 times; a prompt follows one control clip"),
    ([], "a@@short.mp4", "12 frames at 8 a second, where the video has 17; give a longer clip, or --num-frames 9"),
    ([], "a@@prompts.txt", "prompts.txt: not a video but a text file"),
    (["model.noised_image_input=true"], "a@@clip.mp4", "noised_image_input and model.control_input are both true"),
    (["model.network_config.params.in_channels=4"], "a@@clip.mp4",
     "in_channels is 4; with control_input true it must be 2 x out_channels = 8"),
    (["--num-frames", "33", "--long-video", "riflex"], "a@@long.mp4", "args.long_video riflex: not possible"),
    (["model.control_dropout=0.1"], "a@@", "line 1: a path is missing; write prompt@@path/to/control.mp4"),
    (["model.control_dropout=0.1", "model.control_input=false", "model.noised_image_input=true"], "a@@clip.mp4",
     "model.control_dropout is 0.1, but the model takes no control clips"),
    (["model.control_dropout=1.5"], "a@@clip.mp4", "model.control_dropout is 1.5"),
    (["model.sampler_config.params.guider_config={target: sgm.modules.diffusionmodules.guiders.ControlCFG, "
      "params: {scale: 3, control_scale: 2}}"], "a@@clip.mp4",
     "without what is joined on the channels, and model.control_dropout says that training never did"),
])
def test_mistakes_get_one_line(run, words, line, says):
    code, err, _ = run(*words, lines=line)
    line = err.strip().splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and says in line and "Traceback" not in err
