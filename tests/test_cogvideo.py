"""The door for Python: the videos of the command line, other parts over the same weights, refusals in one line."""
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideo import load
from common.errors import ConfigError, DataError
from common.files import REPOSITORY
from sample_video import main
from sgm.guiders import Autoguidance, PerturbedAttentionGuidance

CONFIG = str(REPOSITORY / "configs/tiny_t2v.yaml")
PROMPTS = ["a red circle moves right on a black background", "a blue square grows on a gray background"]
STEPS = "model.sampler_config.params.num_steps=4"


@pytest.fixture(scope="module")
def pipe():
    return load(CONFIG, STEPS, device="cpu")


@pytest.mark.slow
def test_videos_are_those_of_the_command_line_byte_for_byte(pipe, tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    assert main(["--base", CONFIG, str(REPOSITORY / "configs/inference.yaml"), STEPS, "--device", "cpu", "--seed", "7",
                 "--num-samples", "2", "--input-file", str(tmp_path / "p.txt"), "--output-dir", str(tmp_path / "out"),
                 "--negative-prompt", "noise"]) == 0
    results = pipe(PROMPTS, seed=7, num_samples=2, negative_prompt="noise")
    folders = sorted(path.parent for path in (tmp_path / "out").rglob("000000.mp4"))
    assert len(results) == len(folders) == 4
    for result, folder in zip(results, folders, strict=True):
        assert result.save(tmp_path / "again.mp4").read_bytes() == (folder / "000000.mp4").read_bytes()
        record = json.loads((folder / "metadata.json").read_text())
        assert result.trace["passes"] == record["passes"] and result.sample == record["sample"]


def test_one_prompt_gives_one_result_and_several_a_list(pipe):
    one = pipe(PROMPTS[0], seed=1)
    assert one.video.shape == (17, 64, 64, 3) and one.video.dtype == np.uint8 and one.latents.shape == (5, 16, 8, 8)
    assert one.show().size == (6 * 66 + 2, 3 * 66 + 2)
    first, second = pipe(PROMPTS[0], seed=[1, 2])
    assert np.array_equal(first.video, one.video) and not np.array_equal(second.video, one.video)
    assert len(pipe(PROMPTS[0], seed=1, num_samples=2, num_frames=9)) == 2


def test_parts_are_replaced_over_the_same_weights(pipe):
    from sgm.discretizer import VPRampDiscretization
    from sgm.guiders import APG
    before = pipe(PROMPTS[0], seed=1).latents
    other = pipe.with_(guider=APG(scale=4.0), schedule=VPRampDiscretization(), num_inference_steps=3)
    seen = []
    assert not torch.equal(other(PROMPTS[0], seed=1, callback=seen.append).latents, before)
    assert len(seen) == 3 and other.engine.network is pipe.engine.network
    sampler = {"target": "sgm.sampling.VideoDDIMSampler", "params": {
        "num_steps": 2, "discretization_config": {"target": "sgm.discretizer.VPRampDiscretization"}}}
    assert pipe.with_(sampler=sampler)(PROMPTS[0]).trace["passes"] == [1, 2], "without a guider no guidance"
    assert pipe.with_(guidance_scale=1)(PROMPTS[0]).trace["passes"] == [1, 2, 3, 4]
    assert torch.equal(pipe(PROMPTS[0], seed=1).latents, before), "the first pipeline is as it was"


def test_pictures_in_memory_are_those_of_files(tmp_path):
    pipe = load(str(REPOSITORY / "configs/tiny_i2v.yaml"), STEPS, device="cpu")
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    given = [pipe(PROMPTS[0], image=image, last=image).latents
             for image in (picture, Image.fromarray(picture), tmp_path / "a.png")]
    assert torch.equal(given[0], given[1]) and torch.equal(given[0], given[2])
    assert not torch.equal(pipe(PROMPTS[0], image=picture).latents, given[0])
    for words, says in (({}, "needs an image"), ({"image": [picture] * 2}, "2 pictures for 1 prompt"),
                        ({"image": picture.astype(float)}, "uint8")):
        with pytest.raises(DataError, match=says):
            pipe(PROMPTS[0], **words)


def test_what_is_wrong_is_one_line(pipe):
    for call, says in (
            (lambda: load(CONFIG, device="cpu", sampling_fsp=3), "did you mean sampling_fps"),
            (lambda: load("nowhere.yaml"), "nowhere.yaml"),
            (lambda: pipe(PROMPTS[0], image="a.png"), "takes no image"),
            (lambda: pipe(PROMPTS[0], control="a.mp4"), "takes no control clip"),
            (lambda: pipe(PROMPTS[0], num_frames=33), "give num_frames=33 to load"),
            (lambda: pipe(PROMPTS[0], num_frames=10), "the nearest is 9"),
            (lambda: pipe(PROMPTS[0], num_frames=0), "call.num_frames is 0"),
            (lambda: pipe(PROMPTS[0], num_samples=0), "call.num_samples is 0"),
            (lambda: pipe(PROMPTS[0], seed=[1, "a"]), "seed is 'a'"),
            (lambda: pipe.with_(num_inference_steps=0), "num_inference_steps is 0"),
            (lambda: pipe.with_(guider=PerturbedAttentionGuidance(scale=3.0, layers=[99])), "layers are 0 to"),
            (lambda: pipe.with_(guider=Autoguidance(scale=3.0, ckpt_path="weak")), "needs a weaker network"),
            (lambda: pipe.with_(guider={"target": "sgm.guiders.APG", "params": {"scale": -1}}), "-1 must be above 0"),
            (lambda: pipe.with_(guider={"target": "sgm.guiders.IdentityGuider"}, guidance_scale=3), "has no scale")):
        with pytest.raises((ConfigError, DataError), match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_control_clip_is_followed_and_must_be_there():
    controlled = load(str(REPOSITORY / "configs/tiny_control.yaml"), STEPS, device="cpu")
    clips = [str(REPOSITORY / "configs/controls" / f"{name}.mp4") for name in ("growing_triangle", "falling_square")]
    one, other = (controlled(PROMPTS[0], control=clip).latents for clip in clips)
    assert (one - other).abs().max() > 0.5
    for control, says in ((None, "needs a control clip"), ("nowhere.mp4", "nowhere.mp4 does not exist")):
        with pytest.raises(DataError, match=says):
            controlled(PROMPTS[0], control=control)


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict = {}
    exec(blocks[0].partition("from cogvideo")[0].partition(";")[0] + "\nfrom cogvideo import load\n", names)
    names["pipe"] = load(CONFIG, STEPS, device="cpu")
    exec(blocks[2].replace("12", "2"), names)
    exec(blocks[3].replace("(6, 12, 25)", "(2,)"), names)
    assert len(names["videos"]) == 2 and names["plain"].engine.sampler.guider.scale == 1
