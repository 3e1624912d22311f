"""Tests of weight conversion to diffusers' layout and back, with diffusers' models as independent readers."""
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from common.errors import CheckpointError, ConfigError, DataError
from common.files import REPOSITORY
from tests.dit_models import HEAD, WIDTH, build
from tests.released_structures import (
    STRUCTURES,
    assert_same,
    assert_same_vae,
    both_predictions,
    model_config,
    random_vae,
    structure_of,
)
from tools import convert_weights
from weights.checkpoint import NETWORK_PREFIX, read_state_dict, save_checkpoint
from weights.links import merge_modulations, split_modulations
from weights.shards import INDEX, read_shards, write_tensors
from weights.sources import transformer_weights
from weights.weight_files import DIFFUSERS, find_weights


@pytest.fixture
def vae():
    return random_vae()


def write_config(folder, structure):
    path = folder / "model.yaml"
    OmegaConf.save({"model": model_config(structure)}, path)
    return path


def write_transformer(folder, structure, dtype=torch.float32):
    """Save a small random model like a released checkpoint, including unused tensors; return the model."""
    model = build(**structure_of(structure)).to(dtype)
    state = dict(model.state_dict())
    if "1.5" not in structure:
        state["mixins.patch_embed.proj.weight"] = state["mixins.patch_embed.proj.weight"].unflatten(1, (-1, 2, 2))
    state["transformer.position_embeddings.weight"] = torch.zeros(64, 64)
    save_checkpoint(folder / "transformer", 1000, {"module": {NETWORK_PREFIX + k: v for k, v in state.items()}})
    return model


def convert(*words):
    convert_weights.main([*map(str, words)])


@pytest.mark.parametrize("structure", STRUCTURES)
def test_diffusers_computes_the_same_from_converted_weights(structure, diffusers, tmp_path):
    model = write_transformer(tmp_path / "sat", structure)
    convert(write_config(tmp_path, structure), tmp_path / "sat", tmp_path / "hf", "--to", "diffusers",
            "--only", "transformer", "--shard-bytes", 300_000)
    other, report = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        tmp_path / "hf" / "transformer", output_loading_info=True)
    assert not any(report.values())
    assert (tmp_path / "hf" / "transformer" / INDEX).is_file()
    mine, theirs = both_predictions(model, other.eval(), structure)
    assert mine.abs().mean() > 0.1
    assert_same(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_transformer_comes_back_bit_for_bit(structure, dtype, tmp_path):
    model = write_transformer(tmp_path / "sat", structure, dtype)
    yaml = write_config(tmp_path, structure)
    convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers", "--only", "transformer")
    convert(yaml, tmp_path / "hf", tmp_path / "again", "--to", "sat", "--only", "transformer")
    again = read_state_dict(tmp_path / "again" / "transformer")
    expected = {NETWORK_PREFIX + k: v for k, v in model.state_dict().items()}
    assert list(again) == list(expected)
    assert all(again[k].dtype == v.dtype and torch.equal(again[k], v) for k, v in expected.items())
    assert sorted(p.name for p in (tmp_path / "again" / "transformer").iterdir()) == ["latest", "release"]

    convert(yaml, tmp_path / "again", tmp_path / "hf2", "--to", "diffusers", "--only", "transformer")
    files = [sorted((tmp_path / name / "transformer").glob("*")) for name in ("hf", "hf2")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def write_vae(folder, vae):
    folder.mkdir(parents=True)
    torch.save({"state_dict": vae.state_dict() | {"loss.discriminator.weight": torch.zeros(3)}}, folder / "3d-vae.pt")


def test_vae_comes_back_bit_for_bit(vae, tmp_path):
    write_vae(tmp_path / "sat" / "vae", vae)
    yaml = write_config(tmp_path, "5b")
    convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers", "--only", "vae", "--shard-bytes", 1_000_000)
    convert(yaml, tmp_path / "hf", tmp_path / "again", "--to", "sat", "--only", "vae")
    again, expected = read_state_dict(tmp_path / "again" / "vae" / "3d-vae.pt"), vae.state_dict()
    assert list(again) == list(expected)
    assert all(torch.equal(again[k], v) for k, v in expected.items())


def test_diffusers_vae_computes_the_same_chunk_by_chunk(vae, diffusers, tmp_path):
    write_vae(tmp_path / "sat" / "vae", vae)
    convert(write_config(tmp_path, "5b"), tmp_path / "sat", tmp_path / "hf", "--to", "diffusers", "--only", "vae")
    other, report = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / "hf" / "vae", output_loading_info=True)
    assert not any(report.values())
    other.eval()
    assert other.config.scaling_factor == 0.7
    assert_same_vae(vae, other)


def test_both_parts_at_once_with_configurations_from_the_preset(vae, tmp_path):
    write_transformer(tmp_path / "sat", "1.5_i2v")
    write_vae(tmp_path / "sat" / "vae", vae)
    convert(write_config(tmp_path, "1.5_i2v"), tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    transformer, autoencoder = (json.loads((tmp_path / "hf" / part / "config.json").read_text())
                                for part in ("transformer", "vae"))
    assert (transformer["_class_name"], autoencoder["_class_name"]) == (
        "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX")
    assert (transformer["patch_size"], transformer["patch_size_t"], transformer["ofs_embed_dim"]) == (2, 2, 32)
    assert (transformer["attention_head_dim"], transformer["text_embed_dim"]) == (HEAD, WIDTH)
    assert autoencoder["block_out_channels"] == [32, 64, 64, 128]


def test_modulations_are_regrouped_by_branch():
    twelve = torch.arange(12).repeat_interleave(2)
    attention, mlp = split_modulations(twelve)
    assert attention[::2].tolist() == [0, 1, 2, 6, 7, 8] and mlp[::2].tolist() == [3, 4, 5, 9, 10, 11]
    assert torch.equal(merge_modulations(attention, mlp), twelve)


def test_shards_hold_at_most_what_was_asked(tmp_path):
    tensors = {f"t{i}": torch.full((i + 1, 5), float(i)) for i in range(8)}
    write_tensors(tmp_path, tensors, tensors.items(), shard_bytes=200)
    shards = sorted(tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(shards) == 5 and index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    again = read_shards(find_weights(tmp_path, DIFFUSERS))
    assert all(torch.equal(again[k], t) for k, t in tensors.items())

    shards[1].unlink()
    with pytest.raises(CheckpointError, match="00002-of-00005.*fetch it again"):
        find_weights(tmp_path, DIFFUSERS)


def test_mistakes_are_named(tmp_path):
    yaml = write_config(tmp_path, "5b")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(yaml, tmp_path / "nowhere", tmp_path / "hf", "--to", "sat")
    with pytest.raises(ConfigError, match="source and target"):
        convert(yaml, tmp_path, tmp_path, "--to", "sat")
    write_transformer(tmp_path / "sat", "5b_i2v")
    with pytest.raises(CheckpointError, match="shapes differ"):
        convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers", "--only", "transformer")
    gated = OmegaConf.load(yaml)
    gated.model.network_config.params.use_SwiGLU = True
    OmegaConf.save(gated, yaml)
    with pytest.raises(ConfigError, match="no place in diffusers"):
        convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")


def test_float8_becomes_bfloat16_in_both_layouts(tmp_path):
    state = build(**structure_of("5b")).state_dict()
    yaml, scale = write_config(tmp_path, "5b"), torch.tensor(0.01)
    stored = {"model.diffusion_model." + k: (v / scale).to(torch.float8_e4m3fn) if v.ndim == 2 else v.bfloat16()
              for k, v in state.items()}
    expected = {k: (stored["model.diffusion_model." + k].float() * scale if v.ndim == 2 else v).bfloat16()
                for k, v in state.items()}
    scales = {k.removesuffix("weight") + "scale_weight": scale.clone() for k, v in stored.items() if v.ndim == 2}
    save_file(stored | scales, tmp_path / "fp8.safetensors")
    convert(yaml, tmp_path / "fp8.safetensors", tmp_path / "sat", "--to", "sat", "--only", "transformer")
    convert(yaml, tmp_path / "fp8.safetensors", tmp_path / "hf", "--to", "diffusers", "--only", "transformer")
    again = read_state_dict(tmp_path / "sat" / "transformer")
    other = transformer_weights(tmp_path / "hf" / "transformer").read()
    for name, value in expected.items():
        for found in (again[NETWORK_PREFIX + name], other[name]):
            assert found.dtype == torch.bfloat16 and torch.equal(found, value)


@pytest.mark.parametrize("to", ["diffusers", "sat"])
def test_a_folder_that_holds_anything_is_not_written_over(to, tmp_path, vae):
    write_transformer(tmp_path / "source", "5b")
    write_vae(tmp_path / "source" / "vae", vae)
    yaml = write_config(tmp_path, "5b")
    (tmp_path / "target" / "vae").mkdir(parents=True)
    (tmp_path / "target" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"older")
    with pytest.raises(DataError, match="vae exists already and is not empty"):
        convert(yaml, tmp_path / "source", tmp_path / "target", "--to", to)
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["vae"]  # not even the transformer
    convert(yaml, tmp_path / "source", tmp_path / "target", "--to", to, "--only", "transformer")
    with pytest.raises(DataError, match="transformer exists already"):
        convert(yaml, tmp_path / "source", tmp_path / "target", "--to", to, "--only", "transformer")


@pytest.mark.parametrize("to", ["diffusers", "sat"])
@pytest.mark.parametrize("fault", ["full disk", "interruption", "not a number"])
def test_what_goes_wrong_midway_leaves_nothing(to, fault, tmp_path, monkeypatch):
    write_transformer(tmp_path / "source", "5b")
    yaml = write_config(tmp_path, "5b")
    reads = iter(range(1000))

    def stop(state, source):
        if next(reads) == 20:
            raise {"full disk": OSError(28, "No space left on device"), "interruption": KeyboardInterrupt(),
                   "not a number": CheckpointError("values")}[fault]
    monkeypatch.setattr("weights.sources.check_finite", stop)
    with pytest.raises({"full disk": DataError, "interruption": KeyboardInterrupt,
                        "not a number": CheckpointError}[fault]):
        convert(yaml, tmp_path / "source", tmp_path / "target", "--to", to, "--only", "transformer")
    assert list((tmp_path / "target").iterdir()) == []


# Converts with room for so many bytes in a file; what stands for the disk is a limit of the process.
LIMITED = """
import resource, signal, sys
from common.console import run
from tools.convert_weights import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
yaml, folder, *rooms = sys.argv[1:]
for to, room in (each.split() for each in rooms):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))
    source = f"{folder}/{'sat' if to == 'diffusers' else 'hf'}_source"
    code = run(main, [yaml, source, f"{folder}/{to} {room}", "--to", to, "--only", "transformer"])
    sys.stderr.write(f"exit code {code}\\n")
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
    write_transformer(tmp_path / "hf_source", "5b")
    yaml = write_config(tmp_path, "5b")
    convert(yaml, tmp_path / "hf_source", tmp_path / "sat_source", "--to", "sat", "--only", "transformer")
    rooms = ["diffusers 100000", "sat 20000", "sat 200000"]
    done = subprocess.run([sys.executable, "-c", LIMITED, yaml, tmp_path, *rooms], cwd=REPOSITORY,
                          env=os.environ | {"PYTHONPATH": "sat:."}, capture_output=True, text=True)
    assert done.stderr.count("exit code 2\n") == 3 and "Traceback" not in done.stderr, done.stderr
    assert len(re.findall("^error: .*transformer.* cannot be written .File too large", done.stderr, re.MULTILINE)) == 3
    assert [list((tmp_path / room).iterdir()) for room in rooms] == [[], [], []]


@pytest.mark.parametrize("words, says", [
    (["--shard-bytes", "0"], "'0' is not a whole number of bytes"), (["--shard-bytes", "-1"], "'-1' is not a whole"),
    (["--shard-bytes", "abc"], "'abc' is not a whole"),
])
def test_sizes_that_are_none(words, says, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        convert(write_config(tmp_path, "5b"), tmp_path, tmp_path / "t", "--to", "diffusers", *words)
    assert error.value.code == 2 and says in capsys.readouterr().err


def test_a_source_without_the_part_and_a_configuration_of_another_model(tmp_path, vae):
    yaml = write_config(tmp_path, "5b_i2v")
    write_vae(tmp_path / "sat" / "vae", vae)
    with pytest.raises(CheckpointError, match="has no transformer/; give one that has transformer/ and vae/"):
        convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    write_transformer(tmp_path / "sat", "5b")
    with pytest.raises(CheckpointError, match=r"does not fit the configuration; shapes differ: .*no preset"):
        convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("part, change, says", [
    ("network_config", {"params": None}, "model.network_config.params is missing"),
    ("network_config", {"target": "os.system"}, "os.system may not be named"),
    ("first_stage_config", {"target": "torch.nn.Identity", "params": {}}, "params.decoder_config is missing"),
    (None, {"scale_factor": "abc"}, "model.scale_factor is 'abc'"),
    (None, {"network_config": None}, "model.network_config is null")])
def test_a_configuration_that_lacks_what_is_converted_is_one_line(part, change, says):
    model = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "configs" / "tiny_t2v.yaml").model)
    (model if part is None else model[part]).update(change)
    with pytest.raises(ConfigError, match=says):
        convert_weights.parts_of(model)
