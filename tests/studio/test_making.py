"""Tests of what a user may ask for: the same bytes as the command line, and nothing outside the chosen folders."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

import sample_video
from cogvideo.studio.form import _settings
from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE
from cogvideo.studio.making import CONTINUE, Asked, make, ready
from common.errors import ConfigError, DataError, UserError
from common.files import REPOSITORY

PROMPT = "a red circle moves right on a black background"
PARTS = {SAMPLER: ("UniPCSampler", {}), SCHEDULE: ("VPRampDiscretization", {}), GUIDER: ("APG", {"scale": 3})}
ASKED = Asked("tiny_t2v", PROMPT, seed=3, steps=3, parts=PARTS)


def uploaded(studio, name, content=None):
    path = studio.temporary / name
    if content is None:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    else:
        path.write_bytes(content)
    return str(path)


def test_a_video_has_the_bytes_of_the_command_line(studio, tmp_path):
    given = ready(studio, replace(ASKED, samples=2))
    steps, made = [], []
    studio.worker.submit(make, studio, given, lambda step: steps.append(step.index), made.append).result()
    assert steps == [0, 1, 2] * 2 and len(made) == 2
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPT)
    sampler = given.args.model_config.sampler_config
    assert sample_video.main([
        "--base", str(REPOSITORY / "configs/tiny_t2v.yaml"), str(REPOSITORY / "configs/inference.yaml"),
        f"model.sampler_config={dict(sampler)}", "--seed", "3", "--num-samples", "2", "--input-file", str(prompts),
        "--output-dir", str(tmp_path / "line")]) == 0
    line = sorted((tmp_path / "line").rglob("*.mp4"))
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in line]


def test_a_model_as_configured_samples_as_configured(studio):
    model = studio.model("tiny_t2v")
    values = _settings(model)
    asked = Asked("tiny_t2v", PROMPT, steps=values["steps"], parts={role: values[role] for role in PARTS})
    found = dict(ready(studio, asked).args.model_config.sampler_config.params)
    configured = dict(model.arguments().model_config.sampler_config.params)
    assert found["num_steps"] == configured["num_steps"]
    for key in ("discretization_config", "guider_config"):
        assert found[key].target.rpartition(".")[2] == configured[key].target.rpartition(".")[2]
        assert {**configured[key].params, **found[key].params} == dict(configured[key].params)


def test_a_prompt_names_no_files(studio):
    asked = replace(ASKED, prompts="a red circle@@/etc/passwd\n\n  b@@../x.png ")
    prompts = [job.prompt for job in ready(studio, asked).jobs]
    assert [prompt.text for prompt in prompts] == ["a red circle@@/etc/passwd", "b@@../x.png"]
    assert all(prompt.image is None and prompt.clip is None for prompt in prompts)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(REPOSITORY / "README.md"), "/nowhere.png"])
def test_only_uploads_are_read(studio, path):
    with pytest.raises(DataError, match="not there any more"):
        ready(studio, replace(ASKED, model="tiny_i2v", image=path))
    with pytest.raises(DataError, match="not there any more"):
        ready(studio, replace(ASKED, model="tiny_i2v", image=f"{studio.temporary}/../{Path(path).name}"))


@pytest.mark.parametrize("changes, says", [
    ({"prompts": " \n "}, "the prompt is empty"), ({"prompts": "a\n" * 101}, "101 prompts; at most 100"),
    ({"prompts": "a" * 5001}, "5001 characters"), ({"model": "../configs/tiny_t2v"}, "is none of"),
    ({"model": None}, "is none of"), ({"seed": "x"}, "seed"), ({"seed": None}, "seed"), ({"steps": 0}, "steps"),
    ({"steps": 10 ** 9}, "steps"), ({"samples": -1}, "videos"), ({"frames": 18}, "18"), ({"frames": "9; rm"}, "frames"),
    ({"height": 65, "width": 64}, "65"), ({"loras": ["../../x"]}, "is not in"), ({"loras": [3]}, "is not in"),
    ({"parts": PARTS | {GUIDER: ("APG", {"scale": "a"})}}, "scale"),
    ({"parts": PARTS | {GUIDER: ("APG", {"scale": 1, "sigma_lo": "${oc.env:HOME}"})}}, "environment variable HOME"),
    ({"parts": PARTS | {SAMPLER: ("subprocess.Popen", {})}}, "is none of"), ({"negative": "${oc.env:HOME}"}, "HOME"),
    ({"parts": PARTS | {GUIDER: ("SkipLayerGuidance", {"scale": 2, "layers": "[99]"})}}, "99")])
def test_wrong_input_is_one_line(studio, changes, says):
    with pytest.raises(UserError, match=says):
        ready(studio, replace(ASKED, **changes))


def test_broken_pictures_and_missing_ones_are_one_line(studio):
    broken = uploaded(studio, "a.png", b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(DataError):
        ready(studio, replace(ASKED, model="tiny_i2v", image=broken)).jobs[0].image  # noqa: B018
    with pytest.raises(DataError, match="needs a first picture; choose one"):
        ready(studio, replace(ASKED, model="tiny_i2v"))
    with pytest.raises(DataError, match="takes no first picture"):
        ready(studio, replace(ASKED, image=uploaded(studio, "b.png")))


def test_uploads_are_kept_by_their_content(studio):
    one, other = uploaded(studio, "a.png"), uploaded(studio, "b.png")
    assert studio.upload(one) == studio.upload(other) and studio.upload(None) is None
    assert Path(studio.upload(one)).parent == studio.uploads


def test_a_clip_is_continued_or_changed(studio):
    clip = uploaded(studio, "a.mp4", b"")
    with pytest.raises(UserError):
        ready(studio, replace(ASKED, clip=clip))
    with pytest.raises(ConfigError, match="strength"):
        ready(studio, replace(ASKED, clip=clip, strength="much"))
    with pytest.raises(ConfigError, match="latent frames"):
        ready(studio, replace(ASKED, clip=clip, use=CONTINUE, kept=0))
