"""Tests of weight conversion to diffusers' layout and back, with diffusers' models as independent readers."""
import json

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import CheckpointError, ConfigError
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
