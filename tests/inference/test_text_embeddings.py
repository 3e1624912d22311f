"""Tests of runs that write text embeddings or sample from them, on a small random model."""
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from common.files import REPOSITORY
from sample_video import main

EMBEDDER = "model.conditioner_config.params.emb_models.0.params."
NO_T5 = EMBEDDER + "model_dir=/nowhere"


@pytest.fixture
def run(small_model, tmp_path, capfd):
    """A function that runs the script with two prompts; returns exit code, last line of errors, and output folder."""
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "red.png")

    def call(*words, model="t2v", out="out", prompts=("a red circle", "blue, a square")):
        mark = "@@red.png" if model == "i2v" else ""
        (tmp_path / "prompts.txt").write_text("".join(f"{prompt}{mark}\n" for prompt in prompts))
        code = main(["--base", str(small_model / f"{model}.yaml"), str(REPOSITORY / "configs" / "inference.yaml"),
                     "--input-file", str(tmp_path / "prompts.txt"), "--output-dir", str(tmp_path / out), *words])
        lines = capfd.readouterr().err.strip().splitlines()
        return code, lines[-1] if lines else "", tmp_path / out
    return call


@pytest.fixture
def stored(run, tmp_path):
    """The words that sample from text embeddings that a run wrote, the negative prompt's among them."""
    path = tmp_path / "text.safetensors"
    assert run("--save-text-embeddings", str(path), "--negative-prompt", "green")[0] == 0
    return ["--text-embeddings", str(path)]


def videos(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mp4")}


@pytest.mark.slow
@pytest.mark.parametrize("model, words", [
    ("t2v", []), ("t2v", ["--negative-prompt", "green", "--batch-size", "2", "--num-samples", "2", "--offload",
                          "sequential"]),
    ("i2v", ["--bf16"])])
def test_videos_are_those_of_the_text_encoder_which_is_not_needed(run, stored, model, words):
    expected = videos(run(*words, model=model, out="whole")[2])
    if "--bf16" in words:
        run("--save-text-embeddings", stored[1], "--bf16")
    code, _, out = run(*words, *stored, NO_T5, model=model)
    assert code == 0 and len(expected) > 1 and videos(out) == expected


@pytest.mark.slow
def test_stored_or_not_is_the_same_to_a_resumed_run(run, stored):
    _, _, out = run()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert run("--resume", *stored, NO_T5)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}


def test_writing_loads_the_text_encoder_alone_and_makes_no_video(run, tmp_path, small_model):
    path = tmp_path / "new" / "text.safetensors"
    code, _, out = run("--save-text-embeddings", str(path), "args.load=/nowhere", prompts=("a", "b", "a"),
                       model="t2v")
    assert code == 0 and not out.exists()
    with safe_open(path, framework="pt") as opened:
        assert json.loads(opened.metadata()["texts"]) == ["a", "b"] and sorted(opened.keys()) == ["0", "1"]
        assert opened.get_tensor("0").shape == (12, 16)


def test_a_resumed_run_encodes_only_what_the_file_lacks(run, tmp_path, caplog):
    caplog.set_level("INFO")
    path, words = tmp_path / "text.safetensors", ["--save-text-embeddings", str(tmp_path / "text.safetensors")]

    def texts():
        with safe_open(path, framework="pt") as opened:
            names = json.loads(opened.metadata()["texts"])
            return names, [opened.get_tensor(str(number)) for number in range(len(names))]

    run(*words, prompts=("a", "b"))
    before, first = path.read_bytes(), texts()[1]
    assert run(*words, "--resume", prompts=("b", "a"))[0] == 0 and path.read_bytes() == before
    assert "every text of this run has its text embedding" in caplog.text
    rewritten(path, lambda tensor: tensor + 1 if torch.equal(tensor, first[0]) else tensor)  # damage to that of "a"
    assert run(*words, "--resume", prompts=("a", "c"))[0] == 0
    names, tensors = texts()
    assert names == ["b", "a", "c"] and torch.equal(tensors[0], first[1]) and torch.equal(tensors[1], first[0])
    assert "2 text embedding(s)" not in caplog.text.split("already")[1] and "of 2 text(s)" in caplog.text
    assert run(*words, "--resume", "--bf16", prompts=("a",))[0] == 0
    assert texts()[0] == ["a"] and "nothing of it is kept" in caplog.text


def rewritten(path, changed, metadata=()):
    """Write a file of text embeddings again, with other tensors or metadata."""
    with safe_open(path, framework="pt") as opened:
        tensors, before = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    save_file({name: changed(tensor) for name, tensor in tensors.items()}, path, metadata={**before, **dict(metadata)})


def poisoned(tensor):
    tensor[-1, -1] = torch.nan
    return tensor


def test_what_does_not_fit_is_one_line(run, stored, small_model, tmp_path):
    path = tmp_path / "text.safetensors"
    content = path.read_bytes()

    def says(*words, **kinds):
        code, line, out = run(*words, **kinds)
        assert code == 2 and line.startswith("error: ") and not list(out.rglob("*.mp4"))
        return line

    rewritten(path, lambda tensor: tensor + 1)
    assert "is damaged: the text embedding of 'a red circle' is not the one that was written" in says(*stored)
    path.write_bytes(content)
    missing = ("a red circle", *(f"number {i}" for i in range(5)))
    assert "of 5 of 6 prompts: 'number 0', 'number 1', 'number 2' and 2 more" in says(*stored, prompts=missing)
    assert "of 1 of 3 prompts: 'a green one'" in says(*stored, "--negative-prompt", "a green one")
    other = shutil.copytree(small_model / "t5", tmp_path / "t5")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert "was made by another text encoder" in says(*stored, f"{EMBEDDER}model_dir={other}")
    assert "are 12 tokens, the model's 8" in says(*stored, EMBEDDER + "max_length=8")
    assert "are 16 wide, the model's 24" in says(
        *stored, NO_T5, "model.network_config.params.modules.patch_embed_config.params.text_hidden_size=24")
    assert "give one of the two" in says(*stored, "--save-text-embeddings", "x")
    assert "leave --text-embeddings out" in says(*stored, "--input-type", "latents")
    assert "encodes the prompts of a file" in says("--save-text-embeddings", "x", "--input-type", "cli")
    assert "name another file" in says("--save-text-embeddings", str(small_model / "t2v.yaml"))
    assert "name another file" in says("--save-text-embeddings", str(tmp_path))
    for at in range(0, len(content), len(content) // 20):
        path.write_bytes(content[:at])
        assert "holds no text embeddings" in says(*stored)
    path.write_bytes(content)
    rewritten(path, poisoned)
    assert "the text embedding of 'a red circle' is not finite" in says(*stored)
    for metadata in ({"texts": "["}, {"texts": "[1, 2, 3]"}, {"texts": '["a", "a", "b"]'}, {"texts": '["a"]'},
                     {"encoder": "[]"}, {"encoder": '{"width": 16}'}):
        path.write_bytes(content)
        rewritten(path, torch.clone, metadata)
        assert "is damaged" in says(*stored)
    path.write_bytes(content)
    rewritten(path, torch.clone, {"format": "other"})
    assert "holds no text embeddings" in says(*stored)
    path.unlink()
    assert "there is no file of text embeddings" in says(*stored)


def test_a_file_without_digests_is_used_as_before(run, stored, tmp_path):
    rewritten(tmp_path / "text.safetensors", lambda tensor: tensor, {"digests": ""})
    assert run(*stored)[0] == 0


def test_a_plan_names_the_texts_that_a_file_lacks(run, stored, caplog):
    caplog.set_level("INFO")
    assert run(*stored, "--plan", prompts=("a red circle",))[0] == 0 and "will not start" not in caplog.text
    assert run(*stored, "--plan", prompts=("a red circle", "a new one"))[0] == 0
    assert "the run will not start" in caplog.text and "lacks 1 of its text(s): 'a new one'" in caplog.text
