"""Tests of what a user may ask for: the same bytes as the command line, and nothing outside the chosen folders."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

import sample_video
from cogvideo.studio.defaults import parts_of
from cogvideo.studio.form import _settings
from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE, classes
from cogvideo.studio.make import Stopped
from cogvideo.studio.making import CONTINUE, Asked, make, ready, sampler_config
from cogvideo.studio.records import filled
from common.errors import ConfigError, DataError, UserError
from common.files import REPOSITORY
from configuration.yaml_files import plain
from media.records import RECORD

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
    ({"model": None}, "is none of"), ({"seed": "x"}, "seed"), ({"seed": None}, "seed"),
    ({"seed": 2**53 + 2}, "up to 9007199254740992"), ({"steps": 0}, "steps"),
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
        ready(studio, replace(ASKED, model="tiny_i2v", image=broken))
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


def test_a_record_fills_in_the_form_that_makes_the_video_again(studio):
    made: list[Path] = []
    parts = PARTS | {GUIDER: ("APG", {"scale": 2.5, "eta": 0.5})}
    make(studio, ready(studio, replace(ASKED, seed=9, steps=2, parts=parts)), lambda step: None, made.append)
    _, values = filled(studio, str(made[0].relative_to(studio.outputs)))
    roles = {role: values.pop(role) for role in PARTS}
    assert roles == parts and values["seed"] == 9
    again = ready(studio, Asked(**values, parts=roles))
    known = studio.pipeline(again.args, again.limits).known
    assert list(known) == [(again.jobs[0].prompt.text, None)], "another sampler needs no loading and no text encoder"
    make(studio, again, lambda step: None, made.append)
    assert made[0] != made[1] and made[0].read_bytes() == made[1].read_bytes()


def test_a_stopped_run_keeps_the_videos_that_are_finished(studio):
    made: list[Path] = []

    def watch(step):
        if made:
            raise Stopped

    given = ready(studio, replace(ASKED, samples=2, steps=1))
    with pytest.raises(Stopped):
        make(studio, given, watch, made.append)
    assert len(made) == 1 and made[0].with_name(RECORD).is_file()
    assert list(Path(given.args.sampling.output_dir).rglob("*.mp4")) == made


def test_parameters_that_no_form_asks_for_are_kept(studio):
    sampler = plain(studio.models["tiny_t2v"].arguments().model_config.sampler_config)
    sampler["params"]["guider_config"]["params"]["dyn_thresh_config"] = {"target": "sgm.sampling_utils.X"}
    assert sampler_config(parts_of(sampler), 50, sampler) == sampler


def test_no_class_that_reads_files_is_offered(studio):
    assert "Autoguidance" not in classes(GUIDER) and "IdentityGuider" in classes(GUIDER)
    parts = PARTS | {GUIDER: ("Autoguidance", {"scale": 2, "ckpt_path": "/etc/passwd"})}
    with pytest.raises(ConfigError, match="is none of"):
        ready(studio, replace(ASKED, parts=parts))


def test_what_is_refused_leaves_no_folder(studio):
    with pytest.raises(UserError):
        ready(studio, replace(ASKED, frames=18))
    assert [path.name for path in (studio.outputs / "studio").iterdir()] == ["uploads"]


def test_a_model_with_control_input_follows_a_clip(studio):
    with pytest.raises(DataError, match="needs a clip"):
        ready(studio, replace(ASKED, model="tiny_control"))
    clip = uploaded(studio, "a.mp4", (REPOSITORY / "configs/controls/falling_square.mp4").read_bytes())
    (job,) = ready(studio, replace(ASKED, model="tiny_control", clip=clip)).jobs
    assert Path(job.prompt.control).parent == studio.uploads


def test_an_upload_that_is_a_link_is_not_followed(studio):
    link = studio.temporary / "b.png"
    link.symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="upload it again"):
        ready(studio, replace(ASKED, model="tiny_i2v", image=str(link)))


def test_a_model_without_weights_says_where_they_go(studio):
    model = studio.models["cogvideox_2b"]
    assert "checkpoints/cogvideox_2b" in (model.missing() or "")
    assert "Into checkpoints/cogvideox_2b/ put" in model.header()
    assert studio.models["tiny_t2v"].missing() is None


def test_each_lora_has_a_strength(studio):
    studio.loras.mkdir()
    (studio.loras / "one.safetensors").write_bytes(b"")
    (studio.loras / "notes.txt").write_bytes(b"")
    assert list(studio.known_loras()) == ["one.safetensors"]
    with pytest.raises(ConfigError, match="2 strengths for 1 LoRA"):
        ready(studio, replace(ASKED, loras=["one.safetensors"], strengths="1, 2"))
