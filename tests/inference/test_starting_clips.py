"""Tests of sampling runs that start from clips, on a small random model."""
import json

import numpy as np
import pytest

from common.files import REPOSITORY
from media.records import load_latents
from media.videos import write_video
from sample_video import main

NAME = "0_a_red_circle/0"


@pytest.fixture
def run(small_model, tmp_path, capfd):
    """A function that runs the script with one prompt line; returns exit code, standard error and output folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 36, 40, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", [pixels.repeat(20, 0)], 8)
    write_video(tmp_path / "short.mp4", [pixels.repeat(12, 0)], 8)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_video(tmp_path / "moving.mp4", [np.random.default_rng(0).integers(0, 256, (20, 36, 40, 3), np.uint8)], 8)
    damaged = bytearray((tmp_path / "moving.mp4").read_bytes())
    damaged[len(damaged) // 2:len(damaged) // 2 + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(damaged)

    def call(*words, line="a red circle@@clip.mp4", model="t2v", seed="3", out="out"):
        (tmp_path / "prompts.txt").write_text(line)
        code = main(["--base", str(small_model / f"{model}.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
                     "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / out), "--seed", seed,
                     "--only-save-latents", *words])
        return code, capfd.readouterr().err, tmp_path / out / NAME
    return call


def latents_of(folder):
    return load_latents(folder / "latents.safetensors")[0]


@pytest.mark.slow
def test_strength_leads_from_the_clip_to_text_to_video(run):
    half = run("--strength", "0.7", out="half")[2]
    record = json.loads((half / "metadata.json").read_text())
    assert record["clip"].endswith("clip.mp4") and record["strength"] == 0.7 and len(record["noise"]) == 2
    alone = latents_of(run(line="a red circle", out="alone")[2])
    assert (latents_of(half) != alone).any()
    assert (latents_of(run("--strength", "1", out="whole")[2]) == alone).all()


@pytest.mark.slow
def test_inversion_writes_the_noise_and_samples_from_it_without_guidance(run):
    code, _, folder = run("--invert")
    record = json.loads((folder / "metadata.json").read_text())
    noise, _ = load_latents(folder / "noise.safetensors")
    assert code == 0 and noise.shape == latents_of(folder).shape
    assert record["invert"] and set(record["guidance_scale"]) == {1.0}
    assert len(record["noise"]) == 2 and record["noise"][0]["alpha"] > 0, "from the noisiest level of finite SNR"


@pytest.mark.slow
def test_an_image_model_sees_the_clips_first_frame(run):
    code, _, folder = run("--strength", "0.5", model="i2v")
    assert code == 0 and latents_of(folder).shape == (5, 4, 4, 4)


@pytest.mark.parametrize("words, line, says", [
    (["--strength", "1.5"], "a@@clip.mp4", "args.strength is 1.5; it is the share of the steps"),
    (["--strength", "0.3"], "a@@clip.mp4", "leaves none of 3 step(s), so that the clip would not change; give more "
                                           "steps (--num-inference-steps), or at least 0.334"),
    (["--strength", "0", "--plan"], "a@@clip.mp4", "args.strength 0 leaves none of 3 step(s)"),
    (["--strength", "nan"], "a@@clip.mp4", "args.strength is nan"),
    (["--invert", "--num-inference-steps", "1"], "a@@clip.mp4", "leaves none of 1 step(s)"),
    (["model.sampler_config.params.num_steps=null"], "a", "num_steps: missing"),
    (["model.sampler_config.params.fixed_frames=1"], "a", "fixed_frames is 1, but the video starts from noise, which"),
    (["--strength", "0.7", "model.sampler_config.params.fixed_frames=5"], "a@@clip.mp4",
     "fixed_frames is 5, and the video has 5 latent frames, of which at least one must be new"),
    (["--strength", "0.4", "--num-inference-steps", "10", "model.sampler_config={target: sgm.sampling.RestartSampler, "
      "params: {num_steps: 10, discretization_config: {target: sgm.discretizer.VPRampDiscretization}}}"],
     "a@@clip.mp4", "a restart up to 2 adds more noise than the run starts with"),
    (["--batch-size", "2", "model.sampler_config.params.guider_config.params.dyn_thresh_config="
      "{target: sgm.sampling_utils.DynamicThresholding}"], "a", "takes what it limits from all videos of a batch"),
    (["--strength", "0.5"], "a", "needs a clip; write prompt@@path/to/clip.mp4"),
    (["--strength", "0.5"], "a@@nowhere.mp4", "clip nowhere.mp4 does not exist"),
    (["--strength", "0.5"], "a@@broken.mp4", "broken.mp4: not a video but a text file; give a whole video"),
    (["--strength", "0.5"], "a@@damaged.mp4", "damaged.mp4: damaged after"),
    (["--strength", "0.5"], "a@@short.mp4", "12 frames at 8 a second, where the video has 17; give a longer clip, or "
                                            "--num-frames 9"),
    (["--invert", "model.sampler_config.target=sgm.modules.diffusionmodules.sampling.VPSDEDPMPP2MSampler"],
     "a@@clip.mp4", "set model.sampler_config.target=sgm.modules.diffusionmodules.sampling.VideoDDIMSampler"),
])
def test_mistakes_get_one_line(run, words, line, says):
    code, err, _ = run(*words, line=line)
    line = err.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in err and line.startswith("error: ") and says in line


@pytest.mark.slow
@pytest.mark.parametrize("words, line, told", [
    (("--guidance-scale", "1"), "a", True), (("--invert",), "a@@clip.mp4", True), ((), "a", False),
    (("--plan", "--guidance-scale", "1"), "a", True)])
def test_a_negative_prompt_that_no_step_sees_is_told(run, caplog, words, line, told):
    code, _, _ = run("--negative-prompt", "a blue square", *words, line=line)
    assert code == 0 and ("args.negative_prompt has no effect: no step" in caplog.text) == told


@pytest.mark.slow
def test_the_bar_ends_where_the_steps_do(run):
    _, err, _ = run("--strength", "0.7")
    assert "2/2" in err and "2/3" not in err
