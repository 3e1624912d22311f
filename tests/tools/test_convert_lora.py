"""Tests of LoRA conversion to PEFT's layout and back, with diffusers as an independent reader."""
import json
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError, ConfigError
from configuration.settings import RunSettings
from configuration.targets import instantiate_from_config
from tests.dit_models import build, config, inputs
from tests.released_structures import STRUCTURES, assert_same, both_predictions, rotary
from tests.tools.test_convert_weights import write_config, write_transformer
from tests.weights.lora_spellings import (
    LAYERS,
    PROJECTIONS,
    deltas,
    every_spelling,
    kohya,
    metadata_of,
    named,
    random_lora,
    write,
)
from tools import convert_lora, convert_weights
from weights.checkpoint import save_checkpoint
from weights.lora import checkpoint_of, configure_lora, load_lora, lora_of, merge, read_lora
from weights.lora_files import CONFIG, FILE
from weights.network import load_network
from weights.sources import transformer_weights

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


def test_weights_with_a_lora_of_their_own_are_not_merged_into(tuned, tmp_path):
    module = {f"model.diffusion_model.{name}": value for name, value in tuned.state_dict().items()}
    save_checkpoint(tmp_path / "both", 1, {"module": module})
    with pytest.raises(CheckpointError, match="has a LoRA of its own beside the weights .*, which would be lost"):
        convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "merged", "--to", "merged", "--load",
                tmp_path / "both")


def test_a_scale_of_zero_leaves_a_lora_without_effect(tuned, tmp_path):
    convert(tmp_path / "model.yaml", tmp_path / "sat", tmp_path / "none", "--to", "sat", "--lora-scale", "0")
    found = read_lora(tmp_path / "none")
    assert (found.rank, found.alpha) == (RANK, ALPHA)
    assert not any(value.any() for name, value in found.matrices.items() if ".matrix_B." in name)


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


@torch.no_grad()
def test_several_are_merged_and_written_as_their_sum(tuned, tmp_path):
    plain = build(**STRUCTURES["5b"])
    load_network(plain, tmp_path / "base" / "transformer")
    wanted = {name: value.clone() for name, value in plain.state_dict().items()}
    files = []
    for seed, scale, strength in ((1, 0.8, 3 / 4), (2, -0.3, 1.0)):
        lora = random_lora(PROJECTIONS + LAYERS, rank=4 + seed, seed=seed)
        content = kohya(lora, strength * (4 + seed)) if seed == 1 else named(lora, "diffusion_model.{}")
        files.append(write(tmp_path / f"{seed}.safetensors", content))
        for layer, delta in deltas(lora, scale * strength).items():
            wanted[f"{layer}.weight"] += delta
    yaml, scales = tmp_path / "model.yaml", ("--lora-scale", 0.8, -0.3)
    convert(yaml, *files, tmp_path / "merged", "--to", "merged", "--load", tmp_path / "base" / "transformer", *scales)
    for name, value in transformer_weights(tmp_path / "merged").read().items():
        torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=0)
    for layout in ("diffusers", "sat"):
        convert(yaml, *files, tmp_path / "as" / layout, "--to", layout, *scales)
        state = dict(plain.state_dict())
        merge(read_lora(tmp_path / "as" / layout), state)
        for name, value in state.items():
            torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=0)


def test_alpha_can_be_stated_for_files_that_do_not_store_it(tuned, tmp_path):
    released = write(tmp_path / "released.safetensors", named(random_lora(), "{}"))
    for number, words in ((1, ()), (8, ("--alpha", 8))):
        convert(tmp_path / "model.yaml", released, tmp_path / f"a{number}", "--to", "diffusers", *words)
        assert read_lora(tmp_path / f"a{number}").alpha == number


@pytest.mark.parametrize("spelling", ["diffusers", "ComfyUI", "kohya", "PEFT", "rank-stabilized"])
def test_diffusers_reads_the_same_from_other_peoples_files(spelling, tmp_path):
    """The network with two LoRAs, as `set_adapters` weighs them, computes what diffusers computes."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is missing: pip install -r requirements-test.txt")
    pytest.importorskip("peft", reason="peft is missing: pip install -r requirements-test.txt")
    write_transformer(tmp_path / "base", "5b")
    write_config(tmp_path, "5b")
    convert_weights.main([*map(str, (tmp_path / "model.yaml", tmp_path / "base", tmp_path / "hf")), "--to",
                          "diffusers", "--only", "transformer"])
    other = diffusers.CogVideoXTransformer3DModel.from_pretrained(tmp_path / "hf" / "transformer").eval()
    first, second = random_lora(), random_lora(PROJECTIONS + LAYERS, rank=3, seed=1)
    file = every_spelling(tmp_path, first, 3.0)[spelling]
    more = write(tmp_path / "more.safetensors", named(second, "transformer.{}"), metadata_of(r=3, lora_alpha=6))
    pipeline = diffusers.CogVideoXPipeline
    for name, source in (("one", as_diffusers_takes_it(file, spelling, tmp_path)), ("two", more)):
        state, metadata = pipeline.lora_state_dict(str(source), return_lora_metadata=True)
        metadata["transformer.target_modules"] = sorted({key.split(".", 1)[1].split(".lora_")[0] for key in state})
        pipeline.load_lora_into_transformer(state, transformer=other, adapter_name=name, metadata=metadata)
    other.set_adapters(["one", "two"], [0.8, -0.3])
    run = RunSettings(load_lora=[str(file), str(more)], lora_scale=[0.8, -0.3])
    model = {"network_config": config(**STRUCTURES["5b"])}
    configure_lora(model, run)
    mine = instantiate_from_config(model["network_config"]).eval()
    load_network(mine, tmp_path / "base" / "transformer")
    load_lora(mine, run)
    with torch.no_grad():
        assert_same(*both_predictions(mine, other, "5b"))


def as_diffusers_takes_it(file, spelling, folder):
    """Return a file that diffusers reads: what it cannot read is brought to its names here, by plain replacement.

    PEFT's settings beside a file go into the file's metadata, where diffusers looks for them.
    """
    if spelling in ("diffusers", "rank-stabilized"):
        return file
    if spelling == "PEFT":
        tensors, settings = load_file(file / "adapter_model.safetensors"), json.loads(
            (file / "adapter_config.json").read_text())
        tensors = {name.replace("base_model.model.", "transformer."): value for name, value in tensors.items()}
        return write(folder / "theirs.safetensors", tensors, metadata_of(**settings))
    replaced = (("diffusion_model.", "transformer."), ("lora_unet_", "transformer."), ("transformer_blocks_",
                "transformer_blocks."), ("_attn1_", ".attn1."), ("to_out_0", "to_out.0"), ("lora_down", "lora_A"),
                ("lora_up", "lora_B"))
    tensors = {}
    for name, value in load_file(file).items():
        for old, new in replaced:
            name = name.replace(old, new)
        tensors[name] = value
    alphas = {name: tensors.pop(name).item() for name in list(tensors) if name.endswith(".alpha")}
    (alpha,) = set(alphas.values())
    return write(folder / "theirs.safetensors", tensors, metadata_of(r=4, lora_alpha=alpha))
