"""Tests of videos made again from their records, on small random models."""
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from common.files import REPOSITORY
from inference.recorded import Row
from media.videos import write_video
from sample_video import main

pytestmark = pytest.mark.slow

SAMPLER = "model.sampler_config."
SHARED = str(REPOSITORY / "configs" / "inference.yaml")


@pytest.fixture
def make(small_model, tmp_path):
    """A function that makes videos of prompt lines; returns their records by folder."""
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "red.png")
    Image.new("RGB", (50, 40), (30, 30, 200)).save(tmp_path / "blue.png")
    pixels = np.random.default_rng(0).integers(0, 256, (17, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    write_video(tmp_path / "clip.mp4", [pixels], 8)

    def call(*lines, words=(), model="t2v", out="first"):
        (tmp_path / "prompts.txt").write_text("\n".join(lines))
        assert main(["--base", str(small_model / f"{model}.yaml"), SHARED, "--input-file",
                     str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / out), "--seed", "3",
                     "args.num_frames=9", *words]) == 0
        return sorted((tmp_path / out).rglob("metadata.json"))
    return call


@pytest.fixture
def again(tmp_path, caplog, capfd):
    """A function that makes videos again; returns exit code and everything that was said."""
    def call(*names, words=(), out="again"):
        capfd.readouterr()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            code = main(["--from-metadata", *map(str, names), "--output-dir", str(tmp_path / out), *words])
        return code, "\n".join([*caplog.messages, capfd.readouterr().err])
    return call


def same(count, of=None):
    return f"{count} of {of or count} video(s) have the bytes that their records describe"


@pytest.mark.parametrize(("model", "line", "words"), [
    ("t2v", "a red circle", ()),
    ("t2v", "a red circle", ("--only-save-latents", "--negative-prompt", "a blue square")),
    ("i2v", "a red circle@@red.png", ()),
    ("i2v", "a red circle@@red.png@@blue.png", ()),
    ("i2v", "a red circle@@clip.mp4", ("model.noised_image_input=false", "model.control_input=true")),
    ("t2v", "a red circle@@clip.mp4", ("--strength", "0.7")),
    ("t2v", "a red circle@@clip.mp4", ("--invert", f"{SAMPLER}target=sgm.sampling.VideoDDIMSampler")),
    ("t2v", "a red circle@@clip.mp4", ("--continue-from", "1", "--segments", "2")),
    ("t2v", "a red circle", ("args.num_frames=33", "--save-denoised-every", "2"))])
def test_a_video_is_made_again_from_its_record_alone(make, again, tmp_path, model, line, words):
    found = make("a blue square" + line[len("a red circle"):], line, words=words, model=model)
    (tmp_path / "prompts.txt").unlink()
    code, said = again(found[1])
    assert code == 0 and same(1) in said, said
    (record,) = (tmp_path / "again").rglob("metadata.json")
    assert record.parent.relative_to(tmp_path / "again") == found[1].parent.relative_to(tmp_path / "first")
    assert not any(word in said for word in ("not made from", "otherwise", "other code", "other libraries")), said


def test_a_video_of_a_batch_is_sampled_in_its_batch_and_written_alone(make, again, tmp_path):
    records = make("a red circle", "a blue square", "a green circle", words=("--num-samples", "2", "--batch-size", "4"))
    code, said = again(records[5])
    assert code == 0 and same(1) in said and "1 video first sampled in a batch" in said
    assert len(list((tmp_path / "again").rglob("*.mp4"))) == 1
    code, said = again(tmp_path / "first", out="all")
    assert code == 0 and same(6) in said
    entry = json.loads(records[5].read_text())
    assert [(one["prompt_index"], one["sample"]) for one in entry["batch"]["videos"]] == [(2, 0), (2, 1)]
    code, said = again(records[0], words=("--batch-size", "1"), out="alone")
    assert code == 0 and "a batch of another size than args.batch_size" in said
    code, said = again(tmp_path / "first", words=("--resume",), out="all")
    assert code == 0 and "6 finished video(s) are kept" in said and same(6) in said


def test_records_of_one_configuration_keep_their_prompts_though_both_were_the_first(make, again, tmp_path):
    one, other = (make(f"a {color} circle", out=color)[0] for color in ("red", "blue"))
    code, said = again(one, other)
    assert code == 0 and same(2) in said, said


def test_what_differs_is_said_in_a_line_for_each(make, again, small_model, tmp_path, monkeypatch):
    (record,) = make("a red circle")
    moved = shutil.copytree(small_model, tmp_path / "moved")
    content = json.loads(record.read_text())
    content["made_with"] |= {"threads": 77, "processor": "an abacus", "source": "0", "changes": False,
                             "commit": "f" * 40}
    content["versions"]["torch"] = "0.4"
    content["config"]["args"] |= {"load": "/gone/weights", "output_dir": "/forbidden", "save": "/forbidden",
                                  "save_text_embeddings": "/forbidden/x"}
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    code, said = again(path)
    assert code == 2 and f"error: {path}" in said and "/gone/weights" in said
    code, said = again(path, words=[f"args.load={moved}/t2v"])
    assert code == 0 and same(1) in said, "moved weights, edited circumstances: the video is the same"
    assert "made by other code: commit ffffffffffff, now" in said and "torch was '0.4', is" in said
    assert "threads was 77, is" in said and "set OMP_NUM_THREADS=77" in said and "processor was 'an abacus'" in said
    code, said = again(path, words=[f"args.load={moved}/t2v", "--seed", "5"], out="other")
    assert code == 0 and "1 video not made from what the record says: seed was 3, is 5" in said and same(0, 1) in said
    monkeypatch.setattr("inference.circumstances.commit", lambda: None)
    code, said = again(record, out="no_git")
    assert code == 0 and json.loads(next((tmp_path / "no_git").rglob("metadata.json")).read_text()
                                    )["made_with"]["commit"] is None


def test_a_changed_input_is_said_and_a_missing_one_refused(make, again, tmp_path):
    first, second = make("a red circle@@red.png", "a circle@@blue.png", words=("--batch-size", "2"), model="i2v")
    Image.new("RGB", (50, 40), (1, 200, 30)).save(tmp_path / "red.png")
    code, said = again(first)
    assert code == 0 and "not made from what the record says: image: other contents" in said and same(0, 1) in said
    (tmp_path / "red.png").unlink()
    code, said = again(first, out="gone")
    assert code == 2 and "its image" in said and "is not there" in said
    code, said = again(second, out="alone")
    assert code == 0 and "1 video sampled alone, since not all others of the batch can be" in said


@pytest.mark.parametrize(("change", "told"), [
    ({"record_version": 3}, "version 3, and this code knows up to 2"),
    ({"config": None}, "config is null, not names with values"),
    ({"prompt": "another"}, "names another video in row 0"),
    ({"prompt_index": -1, "batch": {"row": 0, "videos": [{"prompt": "a", "prompt_index": -1, "sample": 0}]}}, "is -1"),
    ({"batch": {"row": 1, "videos": []}}, "row 1 is none of the 0 video(s)"),
    ({"batch": []}, "no list of videos"),
    ({"decoded_from": "x"}, "decoded from saved latents"),
    ({"config.model.sampler_config.target": "subprocess.Popen"}, "subprocess.Popen may not be named"),
    ({"config.model.sampler_config.params.num_steps": "${oc.env:HOME}"}, "reads the environment variable HOME"),
    ({"config.model.sampler_config.params.num_steps": 0}, "num_steps is 0"),
    ({"config.nothing": {}}, "unknown section"),
    ({"config.args.nothing": 1}, "unknown key args.nothing"),
    ({"config.args.load": "/etc"}, "/etc"),
    ({"config.model.network_config.params.num_layers": 3}, "")])
def test_a_record_is_checked_as_a_configuration_is(recorded, again, tmp_path, change, told):
    content = json.loads(recorded.read_text())
    for place, value in change.items():
        *above, last = place.split(".")
        at = content
        for name in above:
            at = at[name]
        at[last] = value
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content))
    code, said = again(path)
    assert code == 2 and said.count("error: ") == 1 and f"error: {path}" in said and told in said, said
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.parametrize(("text", "told"), [
    ("", "is no record"), ("[1]", "is no record"), ("[" * 100_000, "is no record"), ("{}", "has no config"),
    ("\0", "zero bytes")])
def test_what_is_no_record_is_refused(again, tmp_path, text, told):
    (tmp_path / "bad.json").write_text(text)
    for name in ("bad.json", "missing.json"):
        code, said = again(tmp_path / name)
        assert code == 2 and (told if name == "bad.json" else "there is no record") in said, said


def test_options_that_a_record_decides_are_refused(recorded, again, tmp_path):
    for words, told in ((["--input-file", "x"], "args.input_file and --from-metadata exclude"),
                        (["--num-samples", "2"], "args.num_samples and --from-metadata exclude"),
                        (["--base", "configs/tiny_t2v.yaml"], "--base and --from-metadata exclude each other")):
        code, said = again(recorded, words=words)
        assert code == 2 and told in said
    code, said = again(recorded, words=["--output-dir", str(recorded.parents[2])])
    assert code == 2 and "its video would be written over" in said
    code, said = again(recorded, words=["--plan"])
    assert code == 0 and "forward passes of the transformer" in said and not (tmp_path / "again").exists()


def test_several_processes_make_the_records_of_one_configuration(recorded, again, tmp_path, monkeypatch):
    content = json.loads(recorded.read_text())
    content["config"]["args"]["seed"] = 9
    (tmp_path / "other.json").write_text(json.dumps(content))
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, said = again(recorded, tmp_path / "other.json")
    assert code == 2 and "the records are of 2 configurations" in said


def test_an_old_record_serves_with_what_it_lacks_said(make, again, tmp_path):
    (record,) = make("a red circle")
    content = json.loads(record.read_text())
    for name in ("record_version", "batch", "made_with", "allow_targets"):
        del content[name]
    record.write_text(json.dumps(content))
    code, said = again(record)
    assert code == 0 and same(1) in said and "a record of an earlier version, which does not hold batch" in said


def test_a_lora_and_stored_text_embeddings_count_as_inputs(make, again, small_model, tmp_path):
    torch.manual_seed(0)
    write_lora(tmp_path / "lora.safetensors")
    texts = str(tmp_path / "texts.safetensors")
    make("a red circle", words=("--save-text-embeddings", texts))
    (record,) = make("a red circle", words=("--text-embeddings", texts, "--load-lora",
                                            str(tmp_path / "lora.safetensors"), "--lora-scale", "2"))
    code, said = again(record)
    assert code == 0 and same(1) in said and "not made from" not in said
    write_lora(tmp_path / "lora.safetensors")
    code, said = again(record, out="other_lora")
    assert code == 0 and "LoRA 1: other contents" in said and same(0, 1) in said
    (tmp_path / "texts.safetensors").unlink()
    code, said = again(record, out="no_texts")
    assert code == 2 and "there is no file of text embeddings" in said


def write_lora(path):
    """Write a random LoRA of the small model, in the layout of peft."""
    pairs = {f"transformer_blocks.{layer}.attn1.to_{name}.lora_{side}.weight":
             torch.randn((4, 64) if side == "A" else (64, 4)) for layer in (0, 1) for name in "qkv" for side in "AB"}
    save_file(pairs, path)


@pytest.fixture(scope="module")
def recorded(small_model, tmp_path_factory):
    """The record of a video that nothing changes."""
    root = tmp_path_factory.mktemp("recorded")
    (root / "prompts.txt").write_text("a red circle")
    assert main(["--base", str(small_model / "t2v.yaml"), SHARED, "--input-file", str(root / "prompts.txt"),
                 "--output-dir", str(root / "out"), "args.num_frames=1", "--only-save-latents"]) == 0
    return next(root.rglob("metadata.json"))


def test_a_prompt_of_the_page_may_have_what_is_a_mark_in_a_file():
    named = Row("a red circle @@ 12:00", 0, 0).named(None, "x")
    assert named.text == "a red circle @@ 12:00" and named.image is None and named.clip is None
