"""The weights of a Hugging Face folder are found in every arrangement, or what is wrong with it is told."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError
from tests.dit_models import build
from tests.released_structures import model_config, structure_of
from weights.diffusers_config import transformer_config
from weights.network import build_network
from weights.shards import read_shards
from weights.weight_files import DIFFUSERS, TRANSFORMERS, find_weights

STEM = DIFFUSERS[0]


def write(folder, *names):
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def index(folder, name, *shards):
    write(folder, *shards)
    (folder / name).write_text(json.dumps({"weight_map": {f"t{i}": shard for i, shard in enumerate(shards)}}))


@pytest.mark.parametrize("names, chosen", [
    (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
    (["model.fp16.safetensors", "model.bf16.safetensors"], ["model.bf16.safetensors"]),
    (["model.fp16.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
    (["pytorch_model.fp16.bin", "spiece.model"], ["pytorch_model.fp16.bin"]),
    (["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"],
     ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
    (["model.fp16-00001-of-00001.safetensors"], ["model.fp16-00001-of-00001.safetensors"]),
    (["model-00001-of-00001.fp16.safetensors"], ["model-00001-of-00001.fp16.safetensors"]),
    (["t5xxl_fp16.safetensors", "spiece.model", "config.json"], ["t5xxl_fp16.safetensors"]),
])
def test_which_files_are_taken(names, chosen, tmp_path):
    write(tmp_path, *names)
    assert [file.name for file in find_weights(tmp_path, TRANSFORMERS)] == chosen


@pytest.mark.parametrize("name", [f"{STEM}.safetensors.index.json", f"{STEM}.safetensors.index.fp16.json",
                                  f"{STEM}.fp16.safetensors.index.json", f"{STEM}.bin.index.json"])
def test_an_index_names_the_shards(name, tmp_path):
    index(tmp_path, name, "b.safetensors", "a.safetensors")
    assert [file.name for file in find_weights(tmp_path, DIFFUSERS)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("arrange, says", [
    (lambda f: write(f), "has no weights .*fetch it again"),
    (lambda f: write(f, "a.safetensors", "b.safetensors"), "several files of weights .a.safetensors, b.safetensors"),
    (lambda f: index(f, f"{STEM}.safetensors.index.json") or write(f, f"{STEM}.safetensors"), "holds weights twice"),
    (lambda f: write(f, f"{STEM}.safetensors", f"{STEM}-00001-of-00002.safetensors"), "holds weights twice"),
    (lambda f: write(f, f"{STEM}-00001-of-00003.safetensors"), "lacks shard 2 of 3, shard 3 of 3"),
    (lambda f: write(f, f"{STEM}.non_ema.safetensors", f"{STEM}.other.safetensors"), "variants non_ema, other"),
])
def test_what_is_wrong_with_a_folder(arrange, says, tmp_path):
    arrange(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        find_weights(tmp_path, DIFFUSERS)


@pytest.mark.parametrize("content, says", [
    ('{"weight_map": {"a": 1, "b": 2}}', "is not an index"), ('{"weight_map": ["a"]}', "is not an index"),
    ("[]", "is not an index"), ("", "is not an index"), ("{" * 100000, "is not an index"),
    ("version https://git-lfs.github.com/spec/v1", "is not an index"), ("\xff\xfe", "is not an index"),
    ('{"weight_map": {}}', "names no shards"),
    ('{"weight_map": {"a": "../x.safetensors"}}', "names '../x.safetensors'"),
    ('{"weight_map": {"a": "/etc/passwd"}}', "names '/etc/passwd'"),
    ('{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}', "lacks x.safetensors, y.safetensors, which"),
])
def test_an_index_that_is_none(content, says, tmp_path):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=says):
        find_weights(tmp_path, DIFFUSERS)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in "ab":
        save_file({"w": torch.ones(2), name: torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="tensors that other shards .* hold, too .w"):
        read_shards([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


@pytest.mark.parametrize("arrangement", ["variant", "variant shards", "no index", "bin", "bin shards", "other name"])
def test_folders_that_diffusers_writes_load_bit_for_bit(arrangement, diffusers, tmp_path):
    config = model_config("5b")["network_config"]
    other = diffusers.CogVideoXTransformer3DModel.from_config(transformer_config(config["params"]))
    settings = {"variant": "fp16"} if "variant" in arrangement else {}
    shards = {"max_shard_size": "200KB"} if arrangement.endswith(("shards", "index")) else {}
    folder = tmp_path / "transformer"
    other.save_pretrained(folder, safe_serialization=not arrangement.startswith("bin"), **settings, **shards)
    if arrangement == "no index":
        next(folder.glob("*.index.json")).unlink()
    elif arrangement == "other name":
        shutil.move(next(folder.glob("*.safetensors")), folder / "cogvideox.safetensors")
    loaded = build_network(config, tmp_path, torch.float32, "cpu").state_dict()
    other.save_pretrained(tmp_path / "plain")
    expected = build_network(config, tmp_path / "plain", torch.float32, "cpu").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    saved = load_file(next((tmp_path / "plain").glob("*.safetensors")))
    assert torch.equal(loaded["time_embed.0.weight"], saved["time_embedding.linear_1.weight"])
    assert len(list(build(**structure_of("5b")).state_dict())) == len(loaded)
