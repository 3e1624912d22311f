"""Weights to diffusers' layout and back; diffusers' own models, from the files written, as an independent check."""
import json

import pytest
import torch
from checkpoint import NETWORK_PREFIX, read_state_dict, save_checkpoint
from errors import CheckpointError, ConfigError
from omegaconf import OmegaConf
from safetensors_files import INDEX, read_tensors, write_tensors
from sgm.util import instantiate_from_config
from tools import convert_weights
from weight_layouts import merge_modulations, split_modulations

from tests.dit_models import HEAD, ROTARY, SINCOS, TEXT, WIDTH, build, config, inputs

TOLERANCE = 2e-5
LEARNED = {"target": ROTARY["target"], "params": ROTARY["params"] | {"learnable_pos_embed": True}}
INTERPOLATED = {"height_interpolation": 1.875, "width_interpolation": 1.875}
STRUCTURES = {
    "2b": dict(positions={"target": SINCOS["target"], "params": SINCOS["params"] | INTERPOLATED}),
    "5b": dict(),
    "5b_i2v": dict(positions=LEARNED, in_channels=8),
    "1.5": dict(patch_size=[2, 2, 2]),
    "1.5_i2v": dict(patch_size=[2, 2, 2], in_channels=8, ofs_embed_dim=32),
}
VAE = {"double_z": True, "z_channels": 4, "ch": 32, "ch_mult": [1, 2, 2, 4], "num_res_blocks": 1}


def first_stage():
    part = "vae_modules.cp_enc_dec.ContextParallel{}3D"
    return {"target": "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper", "params": {
        "regularizer_config": {"target": "vae_modules.regularizers.DiagonalGaussianRegularizer"},
        "encoder_config": {"target": part.format("Encoder"), "params": VAE},
        "decoder_config": {"target": part.format("Decoder"), "params": VAE}}}


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(3)
    vae = instantiate_from_config(first_stage()).eval()
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    return vae


def write_config(folder, structure):
    network = config(**{"num_frames": 13 if "1.5" in structure else 9} | STRUCTURES[structure])
    path = folder / "model.yaml"
    model = {"network_config": network, "first_stage_config": first_stage(), "scale_factor": 0.7}
    OmegaConf.save({"model": model}, path)
    return path


def write_transformer(folder, structure, dtype=torch.float32):
    """A small random model, saved as released checkpoints are, leftovers included; returns it."""
    model = build(**{"num_frames": 13 if "1.5" in structure else 9} | STRUCTURES[structure]).to(dtype)
    state = dict(model.state_dict())
    if "1.5" not in structure:
        state["mixins.patch_embed.proj.weight"] = state["mixins.patch_embed.proj.weight"].unflatten(1, (-1, 2, 2))
    state["transformer.position_embeddings.weight"] = torch.zeros(64, 64)
    save_checkpoint(folder / "transformer", 1000, {"module": {NETWORK_PREFIX + k: v for k, v in state.items()}})
    return model


def convert(*words):
    convert_weights.main([*map(str, words)])


def rotary(model, grid):
    """Cosines and sines in diffusers' form: video alone, each angle twice."""
    return tuple(x[TEXT:].repeat_interleave(2, dim=1) for x in model.mixins["pos_embed"].rotary(grid, TEXT, "cpu"))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_diffusers_computes_the_same_from_converted_weights(structure, diffusers, tmp_path):
    model = write_transformer(tmp_path / "sat", structure)
    convert(write_config(tmp_path, structure), tmp_path / "sat", tmp_path / "hf", "--to", "diffusers",
            "--only", "transformer", "--shard-bytes", 300_000)
    other, report = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        tmp_path / "hf" / "transformer", output_loading_info=True)
    assert not any(report.values())
    assert (tmp_path / "hf" / "transformer" / INDEX).is_file()
    other.eval().norm_out.norm.eps = 1e-6  # diffusers takes 1e-5; the released models were trained with 1e-6

    latents = (4 if "1.5" in structure else 3, 8 if "i2v" in structure else 4, 6, 8)
    x, t, text = inputs(latent=latents)
    ofs = torch.full((1,), 2.0) if structure == "1.5_i2v" else None
    grid = (latents[0] // model.patch_size[0], 3, 4)
    with torch.no_grad():
        mine = model(x, t, text, ofs=ofs)
        theirs = other(x, text, t, ofs=ofs, image_rotary_emb=None if structure == "2b" else rotary(model, grid),
                       return_dict=False)[0]
    assert mine.abs().mean() > 0.1
    assert (mine - theirs).abs().max() < TOLERANCE


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


def test_diffusers_vae_computes_the_same_chunk_by_chunk(vae, diffusers, tmp_path, monkeypatch):
    write_vae(tmp_path / "sat" / "vae", vae)
    convert(write_config(tmp_path, "5b"), tmp_path / "sat", tmp_path / "hf", "--to", "diffusers", "--only", "vae")
    other, report = diffusers.AutoencoderKLCogVideoX.from_pretrained(tmp_path / "hf" / "vae", output_loading_info=True)
    assert not any(report.values())
    other.eval()
    assert other.config.scaling_factor == 0.7
    g = torch.Generator().manual_seed(0)
    z, x = torch.randn(1, 4, 5, 4, 6, generator=g), torch.rand(1, 3, 17, 32, 48, generator=g) * 2 - 1
    monkeypatch.setattr(vae, "encode_in_chunks", True)
    cache = None
    with torch.no_grad():
        for mine, part in zip(vae.decode_chunks(z), (z[:, :, :3], z[:, :, 3:]), strict=True):
            theirs, cache = other.decoder(part, conv_cache=cache)
            assert (mine - theirs).abs().max() < TOLERANCE
        assert (vae.encode(x, unregularized=True) - other.encode(x).latent_dist.parameters).abs().max() < TOLERANCE


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
    again = read_tensors(tmp_path)
    assert all(torch.equal(again[k], t) for k, t in tensors.items())

    shards[1].unlink()
    with pytest.raises(CheckpointError, match="00002-of-00005.*fetch it again"):
        read_tensors(tmp_path)


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
