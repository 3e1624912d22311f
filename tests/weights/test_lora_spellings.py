"""Tests that a LoRA computes the same in every spelling, at the strength that its file or the run states."""
import logging
import math

import pytest
import torch

from common.errors import CheckpointError, ConfigError
from configuration.settings import RunSettings
from configuration.targets import instantiate_from_config
from tests.dit_models import build, config, inputs
from tests.weights.lora_spellings import (
    LAYERS,
    PROJECTIONS,
    deltas,
    every_spelling,
    fused,
    kohya,
    metadata_of,
    named,
    own,
    peft_folder,
    random_lora,
    write,
)
from weights.lora import configure_lora, load_lora, merge, read_lora
from weights.lora_names import without_lora

ALPHA = 3.0
SPELLINGS = ("diffusers", "diffusers, older", "linear layers", "adapter", "ComfyUI", "ComfyUI, downs", "stacked",
             "compiled", "no prefix", "kohya", "kohya, twice underscored", "kohya, by metadata", "rank-stabilized",
             "pickled", "numbers", "own", "PEFT", "PEFT, pickled")


@pytest.fixture(scope="module")
def plain():
    return build(seed=2)


@torch.no_grad()
def expected(plain, *parts):
    """Return the output of a network whose weights have each LoRA of `parts` (with its strength) added."""
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    for lora, strength in parts:
        for layer, delta in deltas(lora, strength).items():
            state[f"{layer}.weight"] += delta
    network = build(seed=3)
    network.load_state_dict(state)
    return network(*inputs())


@torch.no_grad()
def output(plain, *files, **settings):
    """Return the output of the network with LoRAs loaded as a run does."""
    run = RunSettings(load_lora=[str(file) for file in files], **settings)
    model = {"network_config": config()}
    configure_lora(model, run)
    network = instantiate_from_config(model["network_config"]).eval()
    network.load_state_dict(plain.state_dict(), strict=False)
    load_lora(network, run)
    return network(*inputs())


def close(one, other):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_computes_the_same_in_every_spelling(spelling, plain, tmp_path):
    """W + scale * alpha / rank * B A, added by hand."""
    lora = random_lora()
    file = every_spelling(tmp_path, lora, ALPHA)[spelling]
    for scale in (0.5, 1.0, 2.0):
        wanted = expected(plain, (lora, scale * ALPHA / 4))
        close(output(plain, file, lora_scale=[scale]), wanted)
        assert (wanted - expected(plain)).abs().max() > 0.02
    assert read_lora(file).alpha == ALPHA


def test_one_matrix_a_for_query_key_and_value_serves_all_three(plain, tmp_path):
    lora = random_lora()
    for i in (0, 1):
        for name in PROJECTIONS[1:3]:
            lora[f"transformer_blocks.{i}.{name}"] = (lora[f"transformer_blocks.{i}.attn1.to_q"][0],
                                                      lora[f"transformer_blocks.{i}.{name}"][1])
    for prefix in ("", "base_model.model.", "model.diffusion_model."):
        file = write(tmp_path / f"{prefix}fused.safetensors", fused(lora, prefix), metadata_of(lora_alpha=ALPHA))
        close(output(plain, file), expected(plain, (lora, ALPHA / 4)))


@pytest.mark.parametrize("targets", [
    PROJECTIONS[:1], PROJECTIONS[1:3], PROJECTIONS[3:], LAYERS[:1], LAYERS[1:2], LAYERS[2:], PROJECTIONS + LAYERS,
])
def test_it_may_be_on_any_of_the_layers(targets, plain, tmp_path):
    lora = random_lora(targets)
    for file in (write(tmp_path / "a.safetensors", named(lora, "transformer.{}"), metadata_of(lora_alpha=ALPHA)),
                 write(tmp_path / "b.safetensors", kohya(lora, ALPHA))):
        close(output(plain, file), expected(plain, (lora, ALPHA / 4)))


def test_blocks_may_differ_in_their_layers(plain, tmp_path):
    lora = random_lora(PROJECTIONS[:1], [0]) | random_lora(LAYERS[1:2], [1], seed=1)
    close(output(plain, write(tmp_path / "a.safetensors", kohya(lora, ALPHA))), expected(plain, (lora, ALPHA / 4)))


def test_ranks_and_alphas_of_single_layers_count(plain, tmp_path):
    wide, narrow = random_lora(PROJECTIONS[:2]), random_lora(PROJECTIONS[2:], rank=2, seed=1)
    tensors = named(wide | narrow, "base_model.model.{}")
    folder = peft_folder(tmp_path / "peft", tensors, lora_alpha=6, rank_pattern={"to_v": 2, "to_out.0": 2},
                         alpha_pattern={r".*\.to_v": 5, "transformer_blocks.1.attn1.to_out.0": 7})
    value, out = ({k: v for k, v in narrow.items() if name in k} for name in ("to_v", "to_out"))
    first, second = ({k: v for k, v in out.items() if f"blocks.{i}" in k} for i in (0, 1))
    wanted = expected(plain, (wide, 6 / 4), (value, 5 / 2), (first, 6 / 2), (second, 7 / 2))
    close(output(plain, folder), wanted)
    said = read_lora(folder)
    assert said.described.startswith("rank 2 to 4, alpha 5 to 7, strength 1.5 to 3.5 (alpha: adapter_config.json)")
    assert not said.doubts
    mixed = kohya(wide, 6.0) | kohya(value, 5.0) | kohya(first, 6.0) | kohya(second, 7.0)
    close(output(plain, write(tmp_path / "kohya.safetensors", mixed)), wanted)


def test_several_are_added_each_with_its_scale(plain, tmp_path):
    one, two = random_lora(), random_lora(PROJECTIONS[:1] + LAYERS[:1], [1], rank=7, seed=1)
    files = [write(tmp_path / "one.safetensors", kohya(one, ALPHA)),
             write(tmp_path / "two.safetensors", named(two, "diffusion_model.{}"))]
    close(output(plain, *files), expected(plain, (one, ALPHA / 4), (two, 1.0)))
    close(output(plain, *files, lora_scale=[0.8, -0.3]), expected(plain, (one, 0.8 * ALPHA / 4), (two, -0.3)))
    close(output(plain, files[0], lora_scale=[0.5]), expected(plain, (one, 0.5 * ALPHA / 4)))
    close(output(plain, *files, lora_scale=[0.0, 0.0]), expected(plain))
    close(output(plain, files[0], files[0], lora_scale=[0.25, 0.75]), expected(plain, (one, ALPHA / 4)))


def test_the_releases_files_have_the_alpha_that_it_trains_with(plain, tmp_path):
    """Its exporter writes neither a prefix nor alpha; in all other files without alpha it is the rank."""
    lora = random_lora()
    released = write(tmp_path / "released.safetensors", named(lora, "{}"))
    close(output(plain, released), expected(plain, (lora, 1 / 4)))
    close(output(plain, write(tmp_path / "states.pt", {"module": own(lora)})), expected(plain, (lora, 1 / 4)))
    close(output(plain, released, lora_alpha=[2.0]), expected(plain, (lora, 2 / 4)))
    for name, tensors in (("peft", named(lora, "transformer.{}")), ("comfy", named(lora, "diffusion_model.{}")),
                          ("wide", named(lora | random_lora(LAYERS), "{}"))):
        assert read_lora(write(tmp_path / f"{name}.safetensors", tensors)).alpha == 4


def test_a_stated_alpha_takes_the_place_of_the_stored_one(plain, tmp_path):
    lora = random_lora()
    file = write(tmp_path / "a.safetensors", kohya(lora, ALPHA))
    close(output(plain, file, lora_alpha=[8.0]), expected(plain, (lora, 8 / 4)))
    assert "alpha: stated for this run" in read_lora(file, 8.0).described


def test_every_load_says_rank_alpha_strength_and_where_alpha_came_from(plain, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lora = random_lora()
    files = every_spelling(tmp_path, lora, ALPHA)
    said = {"kohya": "its alpha tensors", "PEFT": "adapter_config.json",
            "diffusers": "its metadata lora_adapter_metadata", "own": "its checkpoint",
            "kohya, by metadata": "its metadata ss_network_alpha",
            "rank-stabilized": "its metadata lora_adapter_metadata, with use_rslora: 1.5 * sqrt(r)"}
    for name, where in said.items():
        output(plain, files[name], lora_scale=[0.5])
        line = f"LoRA {files[name]}: rank 4, alpha 3, strength 0.75 (alpha: {where}); scale 0.5"
        assert sum(line == record.getMessage() for record in caplog.records) == 1
    output(plain, write(tmp_path / "released.safetensors", named(lora, "{}")))
    assert "rank 4, alpha 1, strength 0.25 (alpha: not stored, so that of the release's training" in caplog.text
    output(plain, write(tmp_path / "other.safetensors", named(lora, "transformer.{}")))
    assert "rank 4, alpha 4, strength 1 (alpha: not stored, so that of the rank is assumed" in caplog.text


def test_settings_that_do_not_fit_the_matrices_are_said(plain, tmp_path, caplog):
    tensors = named(random_lora(), "base_model.model.{}")
    output(plain, peft_folder(tmp_path / "peft", tensors, r=8, lora_alpha=8, alpha_pattern={"to_x": 3},
                              init_lora_weights="gaussian", modules_to_save=["proj_out"]))
    assert "modules_to_save in adapter_config.json names proj_out, of which the file holds nothing" in caplog.text
    assert "8 pairs of matrices are not of the rank that adapter_config.json says (r 8)" in caplog.text
    assert "alpha_pattern in adapter_config.json fits no layer of it with to_x" in caplog.text


FIRST = "transformer.transformer_blocks.0.attn1.to_q"
A = torch.ones(4, 64)


@pytest.mark.parametrize("change, says", [
    ({f"{FIRST}.lora_A.weight": A * math.nan}, "to_q.lora_A.weight holds numbers that are not finite"),
    ({f"{FIRST}.lora_B.weight": torch.full((64, 4), -math.inf)}, "to_q.lora_B.weight holds numbers that are not f"),
    ({f"{FIRST}.lora_A.weight": A.int()}, "to_q.lora_A.weight is of type int32; matrices of fractions"),
    ({f"{FIRST}.lora_A.weight": A.to(torch.complex64)}, "is of type complex64"),
    ({f"{FIRST}.lora_A.weight": torch.ones(64)}, r"has the shape \(64,\); a matrix is needed"),
    ({f"{FIRST}.lora_A.weight": torch.ones(4, 64, 3, 3)}, r"has the shape \(4, 64, 3, 3\)"),
    ({f"{FIRST}.lora_A.weight": torch.ones(5, 64)}, "to_q.lora_A.weight has rank 5, .*lora_B.weight has rank 4"),
    ({f"{FIRST}.lora_A.weight": torch.ones(0, 64), f"{FIRST}.lora_B.weight": torch.ones(64, 0)}, "has rank 0"),
    ({f"{FIRST}.lora_A.weight": torch.ones(4, 63)}, "does not fit the model; shapes differ"),
    ({f"{FIRST}.lora_A.weight": None}, r"only one of the matrices A and B of 1 layer\(s\): .*to_q.lora_B"),
    ({f"{FIRST}.alpha": torch.tensor(math.nan)}, "to_q.alpha is .*nan.*; it must be one finite number"),
    ({f"{FIRST}.alpha": torch.ones(2)}, "it must be one finite number other than 0; state alpha"),
    ({f"{FIRST}.lora_magnitude_vector": torch.ones(64)}, "is DoRA, which is not supported"),
    ({f"{FIRST}.dora_scale": torch.ones(64, 1)}, "is DoRA"),
    ({f"{FIRST}.hada_w1_a": A}, "is LoHa"), ({f"{FIRST}.lokr_w1": A}, "is LoKr"),
    ({f"{FIRST}.lora_E": A}, "is AdaLoRA"),
    ({f"{FIRST}.diff": A}, "is differences of whole weights"),
    ({f"{FIRST}.lora_B.bias": torch.ones(64)}, "is a LoRA with biases"),
    ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": A}, "is for the text encoder too"),
    ({"text_encoder.block.0.q.lora_A.weight": A}, "is for the text encoder too"),
    ({"transformer.proj_out.lora_A.weight": A, "transformer.proj_out.lora_B.weight": A.T},
     r"on 1 layer\(s\) that the model lacks, or that cannot have a LoRA: transformer.proj_out"),
    ({"transformer.patch_embed.proj.weight": A}, r"1 tensors beside the LoRA \(transformer.patch_embed.proj.weight\)"),
    ({"x" * 5000: A}, "1 tensors beside the LoRA"),
    ({f"{FIRST}.lora_A.second.weight": A, f"{FIRST}.lora_A.first.weight": A.clone()}, "holds 2 adapters"),
    ({"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": A}, "holds the same matrix twice"),
    ({"transformer.layers.0.attention.query_key_value.lora_A.weight": A,
      "transformer.layers.0.attention.query_key_value.lora_B.weight": torch.ones(192, 4)}, "as a whole and in parts"),
    ({"transformer.transformer_blocks.7.attn1.to_q.lora_A.weight": A,
      "transformer.transformer_blocks.7.attn1.to_q.lora_B.weight": A.T}, "lacks .* its layers: transformer.layers.7"),
])
def test_what_cannot_be_used_is_one_line_that_names_it(change, says, plain, tmp_path):
    tensors = named(random_lora(), "transformer.{}") | change
    file = write(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if v is not None})
    with pytest.raises(CheckpointError, match=says) as error:
        output(plain, file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("settings, says", [
    ({"lora_alpha": "sixteen"}, "lora_alpha is 'sixteen'; Input should be a valid number"),
    ({"lora_alpha": math.nan}, "lora_alpha is 'nan'"), ({"r": "8"}, "r is '8'"), ({"r": -1}, "r is '-1'"),
    ({"rank_pattern": {"to_q": "8"}}, "rank_pattern.to_q is '8'"), ({"alpha_pattern": [1]}, "alpha_pattern is"),
    ({"alpha_pattern": {"(": 1}}, "the pattern '.' is not understood"),
    ({"alpha_pattern": {r"(\w+)+x": 1}}, "the pattern .* is not understood"),
    ({"use_dora": True}, "has use_dora set"), ({"layer_replication": [[0, 1]]}, "has layer_replication set"),
    ({"init_lora_weights": "pissa_niter_4"}, r"over weights that its start, init_lora_weights pissa_niter_4, changed"),
    ({"peft_type": "LOHA"}, "peft_type is LOHA"),
])
def test_settings_are_checked(settings, says, tmp_path):
    tensors = named(random_lora(), "base_model.model.{}")
    with pytest.raises(CheckpointError, match=says):
        read_lora(peft_folder(tmp_path / "peft", tensors, **settings))
    with pytest.raises(CheckpointError, match=says):
        read_lora(write(tmp_path / "a.safetensors", tensors, metadata_of(**settings)))


@pytest.mark.parametrize("metadata, says", [
    ({"lora_adapter_metadata": "[" * 100_000}, "is not JSON"), ({"lora_adapter_metadata": "3"}, "is not a mapping"),
    ({"ss_network_alpha": "many"}, "ss_network_alpha is 'many'"),
    ({"base_shapes": '{"a": "b"}'}, "base_shapes.a is 'b'"),
    ({"base_shapes": '{"a": [999999, 999999, 999999]}'}, "gives a the shape"),
    ({"base_shapes": "[]"}, "base_shapes is"),
])
def test_metadata_is_checked(metadata, says, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        read_lora(write(tmp_path / "a.safetensors", named(random_lora(), "transformer.{}"), metadata))


@pytest.mark.parametrize("header, says", [
    ({"lora_alpha": "abc"}, "lora.lora_alpha is 'abc'"), ([1], "lora is"),
    ({"lora_alpha": 1.0, "base_shapes": {"a": [-1]}}, "lora.base_shapes.a.0 is '-1'"),
])
def test_a_checkpoints_header_is_checked(header, says, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        read_lora(write(tmp_path / "a.pt", {"module": own(random_lora()), "lora": header}))


def test_a_folder_of_several_files_names_them(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.safetensors", kohya(random_lora(), 1.0))
    with pytest.raises(CheckpointError, match=r"several files of weights \(.*a.safetensors, .*b.safetensors\)"):
        read_lora(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert read_lora(tmp_path).rank == 4


@pytest.mark.parametrize("settings, says", [
    ({"load_lora": ["a", "b"], "lora_scale": [1.0]}, r"lora_scale has 1 number\(s\), args.load_lora 2 LoRA"),
    ({"lora_scale": [1.0]}, r"lora_scale has 1 number\(s\), args.load_lora 0 LoRA"),
    ({"load_lora": ["a"], "lora_scale": [math.nan]}, "args.lora_scale is nan"),
    ({"load_lora": ["a"], "lora_alpha": [math.inf]}, "args.lora_alpha is inf"),
    ({"load_lora": ["a"], "lora_alpha": [0]}, "args.lora_alpha is 0"),
])
def test_scales_and_alphas_are_checked(settings, says):
    with pytest.raises(ConfigError, match=says):
        _ = RunSettings(**settings).loras


def test_merging_refuses_what_the_weights_cannot_hold(plain, tmp_path):
    lora = read_lora(write(tmp_path / "a.safetensors", kohya(random_lora(), 1e6)))
    state = {name: value.half() for name, value in without_lora(plain.state_dict()).items()}
    with pytest.raises(CheckpointError, match="is not finite with the LoRA merged in"):
        merge(lora, state)


@pytest.mark.parametrize("name, value, says", [
    ("alpha", "16", "to_q.alpha is '16'; it must be one finite number"), ("alpha", None, "to_q.alpha is null"),
    ("alpha", 10 ** 400, "to_q.alpha is 1000"), ("alpha", True, "to_q.alpha is true"),
    ("lora_down.weight", torch.ones(4, 64).to_sparse(), "is of type Tensor; matrices of fractions"),
    ("lora_down.weight", [[1.0]], "is of type list"), ("lora_down.weight", torch.ones(4, 64, device="meta"), "of type"),
])
def test_a_pickled_file_may_hold_anything(name, value, says, tmp_path):
    tensors = kohya(random_lora(), 3.0) | {f"lora_unet_transformer_blocks_0_attn1_to_q.{name}": value}
    with pytest.raises(CheckpointError, match=says) as error:
        read_lora(write(tmp_path / "a.pt", tensors))
    assert "\n" not in str(error.value)
