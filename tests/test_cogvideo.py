"""The interface for Python: the videos of the command line, other parts over the same weights, refusals in one line."""
import copy
import json
import os
import pickle
import re
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogvideo import again, load
from cogvideo.inputs import _picture
from common.errors import ConfigError, DataError
from common.files import REPOSITORY
from common.seeds import generator_for
from media.pictures import load_image
from sample_video import main
from sgm.guiders import Autoguidance, CFGPlusPlus, ControlCFG, PerturbedAttentionGuidance
from sgm.sampling import UniPCSampler

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
    assert pipe.with_(sampler=sampler)(PROMPTS[0], num_frames=1).trace["passes"] == [2, 3], "the guider stays"
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
    for words, says in (({}, "needs an image"), ({"image": [picture] * 2}, "2 given for 1 prompt"),
                        ({"image": picture.astype(float)}, "uint8"),
                        ({"image": torch.zeros(3, 64, 64)}, "image is of type Tensor; it must be a path, a PIL image")):
        with pytest.raises(DataError, match=says):
            pipe(PROMPTS[0], **words)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "F", "La", "I", "I;16", "LA", "P", "1", "RGBX", "PA"])
def test_a_picture_of_any_mode_is_that_of_a_file(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    wide = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
    picture = (Image.fromarray(values[..., 0].astype(wide[mode]) * (1 if mode != "F" else 1 / 256)) if mode in wide
               else Image.new("LA", (8, 8), (90, 200)).convert(mode) if mode in ("La", "PA", "LA")
               else Image.fromarray(values).convert(mode) if mode != "LAB"
               else Image.frombytes("LAB", (8, 8), values.tobytes()))
    found = load_image(_picture(picture, tmp_path / "a.png", "image"))
    assert found.shape == (3, 8, 8) and torch.isfinite(found).all()
    if mode in ("YCbCr", "HSV", "RGBX", "CMYK"):
        assert (found - load_image(_picture(values, tmp_path / "b.png", "image"))).abs().mean() < 0.1


def test_a_picture_of_16_bits_in_any_order_and_sense_is_that_of_its_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8), np.uint16)
    Image.frombytes("I;16B", (8, 8), values.astype(">u2").tobytes()).save(tmp_path / "big.tiff")
    Image.fromarray(values).save(tmp_path / "white_is_zero.tiff", tiffinfo={262: 0})
    Image.fromarray(values.astype(np.float32) / 65535).save(tmp_path / "float.tiff", tiffinfo={262: 0})
    for file in sorted(tmp_path.glob("*.tiff")):
        found = load_image(_picture(Image.open(file), tmp_path / "in_memory.png", "image"))
        torch.testing.assert_close(found, load_image(file), atol=1e-6, rtol=0, msg=file.name)


def test_a_photograph_in_memory_is_turned_upright(tmp_path):
    values = np.zeros((4, 8, 3), np.uint8)
    values[:, :4] = 255
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    by_path = load_image(tmp_path / "a.png")
    assert by_path.shape == (3, 8, 4)
    assert torch.equal(load_image(_picture(Image.open(tmp_path / "a.png"), tmp_path / "b.png", "image")), by_path)
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:6000])
    with pytest.raises(DataError, match="image: the picture cannot be read"):
        _picture(Image.open(cut), tmp_path / "c.png", "image")


def test_a_call_counts_as_the_command_lines_options(pipe, tmp_path):
    clip = pipe(PROMPTS[1], seed=5, progress=False)
    (tmp_path / "p.txt").write_text(f"{PROMPTS[0]}@@{clip.save(tmp_path / 'clip.mp4')}\n")
    assert main(["--base", CONFIG, str(REPOSITORY / "configs/inference.yaml"), "--device", "cpu", "--seed", "2",
                 "--num-inference-steps", "5", "--guidance-scale", "2.5", "--strength", "0.6", "--num-frames", "9",
                 "--input-file", str(tmp_path / "p.txt"), "--output-dir", str(tmp_path / "out")]) == 0
    made = pipe(PROMPTS[0], seed=2, num_inference_steps=5, guidance_scale=2.5, strength=0.6, num_frames=9,
                clip=tmp_path / "clip.mp4", progress=False)
    written = next((tmp_path / "out").rglob("000000.mp4"))
    assert made.save(tmp_path / "again.mp4").read_bytes() == written.read_bytes()


def test_the_literal_example(pipe):
    from sgm.discretizer import VPRampDiscretization
    from sgm.guiders import APG
    from sgm.sampling import UniPCSampler
    other = pipe.with_(sampler=UniPCSampler(num_steps=12, discretization=VPRampDiscretization()), guider=APG(scale=4.0))
    result = other("a red circle moves right on a black background", seed=3, num_inference_steps=3)
    assert result.trace["passes"] == [2, 4, 6] and result.trace["guidance_scale"] == [4.0] * 3
    bare = pipe.with_(sampler=UniPCSampler())
    assert bare.engine.sampler.num_steps == 4 and bare.engine.sampler.guider is pipe.engine.sampler.guider


def test_each_prompt_has_its_own(pipe):
    several = pipe(PROMPTS, seed=[1, 2], negative_prompt=[None, "noise"], progress=False)
    one = pipe(PROMPTS[0], seed=1, progress=False)
    assert [made.seed for made in several] == [1, 2] and np.array_equal(several[0].video, one.video)
    assert not np.array_equal(several[1].video, pipe(PROMPTS, seed=2, progress=False)[1].video)
    seeds = [np.array([1, 2]), torch.tensor([3])]
    assert [made.seed for made in pipe(PROMPTS, seed=seeds, num_frames=1, progress=False)] == [1, 2, 3]
    together = pipe(PROMPTS, seed=[1, 2], negative_prompt=[None, "noise"], batch_size=2, progress=False)
    torch.testing.assert_close(together[1].latents, several[1].latents, atol=1e-4, rtol=1e-4)
    assert pipe(PROMPTS[0], seed=np.int64(1), num_frames=np.int32(17), progress=False).seed == 1


def test_latents_go_in_and_out(pipe):
    drawn = pipe(PROMPTS[0], seed=4, progress=False)
    noise = torch.randn(pipe.latent_shape(), generator=generator_for(4, 0, 0, "noise"))
    assert torch.equal(pipe(PROMPTS[0], seed=9, latents=noise, progress=False).latents, drawn.latents)
    assert np.array_equal(pipe.decode(drawn.latents), drawn.video) and pipe.decode(drawn.latents[None]).shape[0] == 1
    changed = pipe(PROMPTS[1], seed=4, latents=drawn.latents, strength=0.5, progress=False)
    assert len(changed.trace["passes"]) == 2 and not torch.equal(changed.latents, drawn.latents)
    assert pipe.encode_clip(drawn.video).shape == drawn.latents.shape
    assert pipe.latent_shape(num_frames=9) == (3, 16, 8, 8)


def test_a_clip_in_memory_is_inverted_and_continued(pipe):
    clip = pipe(PROMPTS[0], seed=4, progress=False)
    inverted = pipe(PROMPTS[0], clip=clip.video, invert=True, num_inference_steps=8, guidance_scale=1, progress=False)
    assert inverted.noise.shape == clip.latents.shape
    assert np.abs(inverted.video.astype(int) - clip.video).mean() < 3
    longer = pipe(PROMPTS[0], clip=clip, continue_from=3, progress=False)
    assert longer.video.shape == (25, 64, 64, 3) and np.array_equal(longer.video[:17], clip.video)
    assert pipe(PROMPTS[0], segments=2, progress=False).video.shape == (25, 64, 64, 3)


def test_the_denoised_estimates_are_kept_when_asked_for(pipe):
    seen = []
    made = pipe(PROMPTS[0], seed=1, estimates=True, callback=lambda step: seen.append(step.denoised), progress=False)
    assert torch.equal(made.trace["estimates"], torch.cat(seen).cpu()) and len(seen) == 4
    frames = pipe(PROMPTS[0], seed=1, estimates="frames", progress=False).trace["estimates"]
    assert frames.shape == (4, 17, 64, 64, 3)
    assert np.array_equal(frames[-1], pipe.decode(made.trace["estimates"][-1]))
    assert "estimates" not in pipe(PROMPTS[0], num_frames=1, progress=False).trace


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_a_callback_raises_ends_the_call_and_leaves_the_pipeline_as_it_was(pipe, error):
    before = pipe(PROMPTS[0], seed=1, progress=False).latents

    def stop(step):
        if step.index == 1:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        pipe(PROMPTS[0], seed=1, callback=stop, progress=False)
    assert torch.equal(pipe(PROMPTS[0], seed=1, progress=False).latents, before)
    finished = pipe.results(PROMPTS, seed=1, num_frames=1, progress=False)
    assert next(finished).prompt == PROMPTS[0], "videos come as they are finished"
    assert torch.is_grad_enabled(), "outside of the call nothing is changed"


def test_threads_wait_for_each_other_and_copies_are_their_own(pipe):
    alone = [pipe(text, seed=1, num_frames=9, progress=False).latents for text in PROMPTS]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda text: pipe(text, seed=1, num_frames=9, progress=False).latents, PROMPTS * 2))
    assert all(torch.equal(one, other) for one, other in zip(alone * 2, together, strict=True))
    copied = copy.deepcopy(pipe)
    assert copied.engine.network is not pipe.engine.network
    assert torch.equal(copied(PROMPTS[0], seed=1, num_frames=9, progress=False).latents, alone[0])
    with pytest.raises(ConfigError, match="call load in each process"):
        pickle.dumps(pipe)


def test_a_text_is_encoded_once(pipe, monkeypatch):
    pipe("a green square", num_frames=1, progress=False)
    calls = []
    monkeypatch.setattr(type(pipe.engine.conditioner), "conditioning", lambda *given: calls.append(given))
    pipe.with_(guidance_scale=2)("a green square", num_frames=1, progress=False)
    assert calls == [] and len(pipe.known) <= 64


def test_a_negative_prompt_equal_to_the_prompt_is_warned_of(pipe, caplog):
    pipe(PROMPTS[0], negative_prompt=PROMPTS[0], num_frames=1, progress=False)
    assert "guidance has no effect on 1 of 1 video(s)" in caplog.text


def test_loading_takes_options_by_name_and_prints_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pipe = load("tiny_t2v", num_inference_steps=3, guidance_scale=2, negative_prompt='a: "b" #c', device="cpu",
                sampling_image_size=(64, 64), **{"model.guidance_one_by_one": True})
    assert pipe.args.sampling.negative_prompt == 'a: "b" #c' and pipe.args.model_config.guidance_one_by_one
    assert pipe.engine.sampler.num_steps == 3 and pipe.engine.sampler.guider.scale == 2
    assert capfd.readouterr() == ("", "")
    assert load("configs/tiny_t2v.yaml", use_dynamic_cfg=False, device=torch.device("cpu")
                ).engine.sampler.guider.schedule == "constant"


def check_one_line(cases):
    for call, says in cases:
        with pytest.raises((ConfigError, DataError), match=says) as error:
            call()
        assert "\n" not in str(error.value)


def test_wrong_loading_is_one_line():
    check_one_line((
        (lambda: load(CONFIG, device="cpu", sampling_fsp=3), "did you mean sampling_fps"),
        (lambda: load("nowhere.yaml"), "nowhere.yaml"),
        (lambda: load(CONFIG, "args.plan=true"), "plan is for the command line"),
        (lambda: load(CONFIG, **{"args.only_save_latents": True}), "only_save_latents is for the command line"),
        (lambda: again("record", train_iters=3), "again: train_iters is for the command line"),
        (lambda: load("tiny_t2"), "did you mean tiny_t2v"),
        (lambda: load("configs/tiny_t2.yaml"), "did you mean configs/tiny_t2v.yaml"),
        (lambda: load(3), "3 is no configuration"),
        (lambda: load(CONFIG, loras=3), "loras is 3; give files"),
        (lambda: load(CONFIG, allow_targets=3), "allow_targets is 3"),
        (lambda: load(CONFIG, device="cpu:x"), "which is no device"),
        (lambda: load(CONFIG, plan=True), "load: plan is for the command line"),
        (lambda: load(CONFIG, use_dynamic_cfg="false"), "use_dynamic_cfg is 'false'; it must be true or false"),
        (lambda: load(CONFIG, seed=object()), "seed is <object.*which no configuration can hold"),
        (lambda: load(CONFIG, loras={"a": 1}, load_lora="b"), "loras and load_lora are both given")))


def test_wrong_calls_are_one_line(pipe):
    check_one_line((
        (lambda: pipe(3), "prompt is 3; give a text"),
        (lambda: pipe([]), r"prompt is \[\]; give a text"),
        (lambda: pipe(["a", None]), "prompt is null; it must be a text"),
        (lambda: pipe("a\0"), "prompt is 'a.x00', which is not UTF-8 text"),
        (lambda: pipe(PROMPTS, negative_prompt=["a"]), "negative: 1 given for 2 prompt"),
        (lambda: pipe(PROMPTS[0], negative_prompt=3), "negative_prompt is 3; it must be a text"),
        (lambda: pipe(PROMPTS[0], image=Image.new("RGB", (64, 64))), "takes no image"),
        (lambda: pipe(PROMPTS[0], image="a.png"), "image a.png does not exist"),
        (lambda: pipe(PROMPTS[0], height=64), r"there is no height; give sampling_image_size=\(height, width\)"),
        (lambda: pipe(PROMPTS[0], control="a.mp4"), "takes no control clip"),
        (lambda: pipe(PROMPTS[0], clip="a.mp4"), "takes no clip; give strength, invert or continue_from"),
        (lambda: pipe(PROMPTS[0], strength=0.5), "this run needs a clip; give clip="),
        (lambda: pipe(PROMPTS[0], strength=0.5, clip="a.mp4"), "clip a.mp4 does not exist"),
        (lambda: pipe(PROMPTS[0], strength=0.5, clip=3), "clip is of type int; it must be a path, a result"),
        (lambda: pipe(PROMPTS[0], strength=2, latents=torch.zeros(5, 16, 8, 8)), "from 0 to 1"),
        (lambda: pipe(PROMPTS[0], strength=0.5, continue_from=2, clip=__file__), "exclude each other"),
        (lambda: pipe(PROMPTS[0], latents=torch.zeros(16, 5, 8, 8)), r"latents are \[16, 5, 8, 8\], and this"),
        (lambda: pipe(PROMPTS[0], latents=3), "latents is 3; it must be a tensor"),
        (lambda: pipe(PROMPTS[0], latents=torch.full((5, 16, 8, 8), torch.nan)), "not finite"),
        (lambda: pipe(PROMPTS[0], num_frames=33), "give num_frames=33 to load"),
        (lambda: pipe(PROMPTS[0], num_frames=10), "the nearest is 9"),
        (lambda: pipe(PROMPTS[0], num_frames=0), "call.num_frames is 0"),
        (lambda: pipe(PROMPTS[0], num_samples=0), "call.num_samples is 0"),
        (lambda: pipe(PROMPTS[0], num_frame=9), "there is no num_frame; did you mean num_frames"),
        (lambda: pipe(PROMPTS[0], bf16=True), "bf16 is decided when a model is loaded"),
        (lambda: pipe(PROMPTS[0], callback=3), "callback is 3; it must be a function"),
        (lambda: pipe(PROMPTS[0], estimates="all"), "estimates is 'all'; it must be"),
        (lambda: pipe(PROMPTS[0], num_inference_steps=0), "num_inference_steps is 0"),
        (lambda: pipe(PROMPTS[0], num_inference_steps="4"), "num_inference_steps is '4'"),
        (lambda: pipe(PROMPTS[0], guidance_scale="4"), "guidance_scale is '4'"),
        (lambda: pipe(PROMPTS[0], seed=[1, "a"]), "seed is 'a'"),
        (lambda: pipe(PROMPTS[0], seed=True), "seed is true"),
        (lambda: pipe(PROMPTS, seed=[1, 2, 3]), "seed: 3 given for 2 prompt"),
        (lambda: pipe(PROMPTS[0], seed=[]), "seed is an empty list")))


def test_wrong_latents_and_clips_are_one_line(pipe):
    check_one_line((
        (lambda: pipe.decode(torch.zeros(5, 4, 8, 8)), "this model's have 16 channels"),
        (lambda: pipe.decode(torch.zeros(4, 16, 8, 8)), "an odd number of them"),
        (lambda: pipe.decode("a"), "latents are str"),
        (lambda: pipe(PROMPTS, strength=0.5, clip=[np.zeros((3, 64, 64, 3), np.uint8)] * 2),
         "^clip of prompt 0 is too short: 3 frames"),
        (lambda: pipe.encode_clip(np.zeros((16, 64, 64, 3), np.uint8)), "the clip is 16 frames of 64 x 64"),
        (lambda: pipe.encode_clip(np.zeros((17, 64, 64, 3))), "uint8, not .* float64"),
        (lambda: pipe(PROMPTS[0], num_frames=1, progress=False).save("a.gif"), "ends with .mp4"),
        (lambda: pipe(PROMPTS[0], num_frames=1, progress=False).save(b"a.mp4"), "is no path"),
        (lambda: pipe(PROMPTS[0], num_frames=1, progress=False).save(f"{'a' * 300}.mp4"), "too long for a path")))


def test_views_of_clips_are_encoded(pipe):
    clip = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), np.uint8)
    assert torch.equal(pipe.encode_clip(clip[::-1, :, :, ::-1]), pipe.encode_clip(clip[::-1, :, :, ::-1].copy()))


def test_a_video_is_saved_in_the_home_folder(pipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved = pipe(PROMPTS[0], num_frames=1, num_inference_steps=1, progress=False).save("~/a.mp4")
    assert saved == tmp_path / "a.mp4" and saved.is_file()


def test_a_module_of_the_same_name_is_named(tmp_path):
    (tmp_path / "common.py").write_text("")
    done = subprocess.run([sys.executable, "-c", "import common, cogvideo"], capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"})
    assert f"ImportError: cogvideo has a module common, and {tmp_path}/common.py is imported under" in done.stderr


def test_wrong_parts_are_one_line(pipe):
    check_one_line((
        (lambda: pipe.with_(num_inference_steps=0), "num_inference_steps is 0"),
        (lambda: pipe.with_(sampler=UniPCSampler), "the class UniPCSampler; give an object"),
        (lambda: pipe.with_(sampler="euler"), "sampler is 'euler'; it must be a Sampler"),
        (lambda: pipe.with_(schedule=UniPCSampler()), "it must be a Discretization"),
        (lambda: pipe.with_(guider=3), "guider is 3; it must be a Guider"),
        (lambda: pipe.with_(guider=PerturbedAttentionGuidance(scale=3.0, layers=[99])), "layers are 0 to"),
        (lambda: pipe.with_(guider=Autoguidance(scale=3.0, ckpt_path="weak")), "needs a weaker network"),
        (lambda: pipe.with_(guider={"target": "sgm.guiders.APG", "params": {"scale": -1}}), "-1 must be above 0"),
        (lambda: pipe.with_(guider=CFGPlusPlus(scale=0.6), guidance_scale=6), "guidance_scale is 6; it must be"),
        (lambda: pipe.with_(guider=ControlCFG(scale=3.0, control_scale=2.0)), "this model takes neither"),
        (lambda: load("tiny_i2v", "model.noised_image_dropout=0.0", device="cpu").with_(
            guider=ControlCFG(scale=3.0, control_scale=2.0)), "says that training never did"),
        (lambda: pipe.with_(guider={"target": "sgm.guiders.IdentityGuider"}, guidance_scale=3), "has no scale")))


def test_a_control_clip_is_followed_and_must_be_there():
    controlled = load(str(REPOSITORY / "configs/tiny_control.yaml"), STEPS, device="cpu")
    clips = [str(REPOSITORY / "configs/controls" / f"{name}.mp4") for name in ("growing_triangle", "falling_square")]
    one, other = (controlled(PROMPTS[0], control=clip).latents for clip in clips)
    assert (one - other).abs().max() > 0.5
    for control, says in ((None, "needs a control clip"), ("nowhere.mp4", "nowhere.mp4 does not exist")):
        with pytest.raises(DataError, match=says):
            controlled(PROMPTS[0], control=control)


def test_the_page_runs(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "load=" not in block]
    names = {"load": lambda *given, **settings: pipe, "again": lambda record, *words, **settings: Path(record)}
    for block in blocks:
        for more, fewer in (("=20", "=2"), ("=12", "=2"), (": 12", ": 2"), ("=8)", "=2)"), ("(6, 12, 25)", "(2,)"),
                            ("from cogvideo import load\n", ""), ("from cogvideo import again\n", "")):
            block = block.replace(more, fewer)
        exec(block, names)
    assert len(names["videos"]) == 2 and names["plain"].engine.sampler.guider.scale == 1
    assert names["latents"].shape == (2, 5, 16, 8, 8) and (tmp_path / "a.mp4").is_file()


NOTEBOOK = REPOSITORY / "docs/python.ipynb"


def cells_of_the_notebook():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebooks_cells_run(monkeypatch, capsys):
    import matplotlib
    matplotlib.use("Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = "\n".join("".join(cell["source"]) for cell in cells_of_the_notebook())
    assert source.count("QUICK = False") == 1
    names = {"__name__": "notebook"}
    monkeypatch.setitem(sys.modules, "notebook", types.ModuleType("notebook"))  # where dataclasses look for annotations
    exec(source.replace("QUICK = False", "QUICK = True"), names)
    assert names["made"].video.shape == (17, 64, 64, 3) and "MidpointSampler: " in capsys.readouterr().out


def test_the_notebooks_outputs_are_those_of_one_whole_run():
    cells = cells_of_the_notebook()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds and kinds.count("display_data") >= 3 and "execute_result" in kinds
    assert NOTEBOOK.stat().st_size < 1_000_000 and str(REPOSITORY) not in NOTEBOOK.read_text(encoding="utf-8")
