"""Tests of LoRA conversion to PEFT's layout and back, with diffusers as an independent reader."""
import json
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file

from common.errors import CheckpointError, ConfigError
from tests.dit_models import build, inputs
from tests.released_structures import STRUCTURES, rotary
from tests.tools.test_convert_weights import write_config, write_transformer
from tools import convert_lora, convert_weights
from weights.checkpoint import save_checkpoint
from weights.lora import checkpoint_of, lora_of, read_lora
from weights.lora_files import CONFIG, FILE
from weights.network import load_network

RANK, ALPHA = 3, 12


def with_lora(**params):
    return {"lora_config": {"target": "sat.model.finetune.lora2.LoraMixin",
                            "params": {"r": RANK, "lora_alpha": ALPHA, **params}}}


def convert(*words):
    convert_lora.main([*map(str, words)])


@pytest.fixture
def tuned(tmp_path):
    """A model, saved as a bfloat16 LoRA in sat/, its configuration in model.yaml and its base weights in base/."""
    base = write_transformer(tmp_path / "base", "5b")
    model = build(**STRUCTURES["5b"], extra_modules=with_lora(), seed=5)
    model.load_state_dict(base.state_dict())
    lora = lora_of(model)
    lora = replace(lora, matrices={name: value.bfloat16() for name, value in lora.matrices.items()})
    model.load_state_dict(lora.matrices, strict=False)
    save_checkpoint(tmp_path / "sat", 3, checkpoint_of(lora))
    write_config(tmp_path, "5b")
    return model


def opened(folder):
    """Return the tensors and metadata of an exported file."""
    with safe_open(folder / FILE, framework="pt") as file:
        return {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata()


def test_it_comes_back_bit_for_bit(tuned, tmp_path):
    yaml, there, again = tmp_path / "model.yaml", tmp_path / "hf", tmp_path / "again"
    convert(yaml, tmp_path / "sat", there, "--to", "diffusers")
    convert(yaml, there, again, "--to", "sat")
    one, other = read_lora(tmp_path / "sat"), read_lora(again)
    assert list(one.matrices) == list(other.matrices) and (one.rank, one.alpha) == (other.rank, other.alpha)
    assert all(v.dtype == torch.bfloat16 and torch.equal(other.matrices[k], v) for k, v in one.matrices.items())
    convert(yaml, again, tmp_path / "hf2", "--to", "diffusers")
    (tensors, metadata), (tensors2, metadata2) = (opened(folder) for folder in (there, tmp_path / "hf2"))
    assert metadata == metadata2 and tensors.keys() == tensors2.keys()
    assert all(torch.equal(tensors[name], tensors2[name]) for name in tensors)


def test_names_rank_and_alpha_are_pefts(tuned, tmp_path):
    convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    tensors, metadata = opened(tmp_path / "hf")
    config = json.loads(metadata[CONFIG])
    assert len(tensors) == 2 * 4 * 2 and config["transformer.r"] == RANK and config["transformer.lora_alpha"] == ALPHA
    assert "transformer_blocks.1.attn1.to_out.0" in config["transformer.target_modules"]
    matrices = tuned.state_dict()
    for part, letter in enumerate("qkv"):
        ours = "transformer.layers.1.attention.query_key_value.matrix_{}." + str(part)
        for matrix in "AB":
            theirs = tensors[f"transformer.transformer_blocks.1.attn1.to_{letter}.lora_{matrix}.weight"]
            assert torch.equal(theirs, matrices[ours.format(matrix)].bfloat16())


def test_diffusers_computes_the_same_with_it(tuned, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")
    pytest.importorskip("peft", reason="peft is missing: pip install -r requirements-test.txt")
    yaml = tmp_path / "model.yaml"
    convert(yaml, tmp_path / "sat", tmp_path / "lora", "--to", "diffusers")
    convert_weights.main([*map(str, (yaml, tmp_path / "base", tmp_path / "hf")), "--to", "diffusers",
                          "--only", "transformer"])
    other = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "hf" / "transformer").eval()
    other.norm_out.norm.eps = 1e-6  # diffusers uses 1e-5; the released models were trained with 1e-6
    pipeline = diffusers.CogVideoXPipeline
    state, metadata = pipeline.lora_state_dict(str(tmp_path / "lora"), return_lora_metadata=True)
    pipeline.load_lora_into_transformer(state, transformer=other, metadata=metadata)
    x, t, text = inputs()
    with torch.no_grad():
        theirs = other(x, text, t, image_rotary_emb=rotary(tuned, (3, 3, 4)), return_dict=False)[0]
        plain = build(**STRUCTURES["5b"])
        load_network(plain, tmp_path / "base" / "transformer")
        mine, without = tuned(x, t, text), plain(x, t, text)
    assert (mine - without).abs().max() > 0.05
    assert (mine - theirs).abs().max() < 2e-5


@torch.no_grad()
def test_merged_it_is_a_model_as_any_other(tuned, tmp_path):
    convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "merged", "--to", "merged", "--load",
            tmp_path / "base" / "transformer")
    plain = build(**STRUCTURES["5b"])
    load_network(plain, tmp_path / "merged")
    torch.testing.assert_close(plain(*inputs()), tuned(*inputs()), atol=2e-5, rtol=0)


def rewritten(folder, change):
    """Change the tensors and metadata of the exported file; return its folder."""
    tensors, metadata = opened(folder)
    change(tensors, metadata)
    save_file(tensors, folder / FILE, metadata)
    return folder


def test_without_metadata_alpha_is_the_rank_as_diffusers_takes_it(tuned, tmp_path):
    convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    lora = read_lora(rewritten(tmp_path / "hf", lambda tensors, metadata: metadata.clear()))
    assert lora.alpha == lora.rank == RANK and lora.base is None


@pytest.mark.parametrize("change, says", [
    (lambda t, m: t.pop("transformer.transformer_blocks.0.attn1.to_k.lora_A.weight"), "only one of .*to_k.lora_B"),
    (lambda t, m: t.update({"transformer.proj_out.lora_A.weight": torch.ones(3, 4)}), "the model lacks.*proj_out"),
    (lambda t, m: m.update({CONFIG: json.dumps({"transformer.use_dora": True})}), "has use_dora set"),
    (lambda t, m: m.update({CONFIG: "{"}), "is not JSON"),
])
def test_what_has_no_counterpart_is_named(tuned, tmp_path, change, says):
    convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
    with pytest.raises(CheckpointError, match=says):
        read_lora(rewritten(tmp_path / "hf", change))


def test_mistakes_are_named(tuned, tmp_path):
    yaml = tmp_path / "model.yaml"
    with pytest.raises(ConfigError, match="source and target"):
        convert(yaml, tmp_path / "sat", tmp_path / "sat", "--to", "diffusers")
    with pytest.raises(CheckpointError, match="merging needs the model's weights"):
        convert(yaml, tmp_path / "sat", tmp_path / "merged", "--to", "merged")
    other = OmegaConf.load(yaml)
    other.model.network_config.params.num_layers = 1
    OmegaConf.save(other, yaml)
    with pytest.raises(CheckpointError, match="trained for another model"):
        convert(yaml, tmp_path / "sat", tmp_path / "hf", "--to", "diffusers")
