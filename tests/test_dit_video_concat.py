"""Tests of the video transformer: positions, attention, patches, modulation, sizes and loading."""
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from common.errors import ConfigError
from common.patches import parse_patch_size, patchify, unpatchify
from configuration.targets import check_config, instantiate_from_config
from network import stack
from network.attention import attention
from network.embedding import timestep_embedding
from network.positions import (
    Basic2DPositionEmbeddingMixin,
    Basic3DPositionEmbeddingMixin,
    Rotary3DPositionEmbeddingMixin,
)
from network.rotation import rotate
from network.wrapper import OpenAIWrapper
from tests.dit_models import HEAD, ROTARY, SINCOS, TEXT, build, config, inputs


@torch.no_grad()
def test_fresh_transformer_predicts_zero():
    torch.manual_seed(0)
    assert instantiate_from_config(config())(*inputs()).abs().max() == 0


def test_building_does_not_reseed():
    torch.manual_seed(7)
    first = instantiate_from_config(config()).time_embed[0].weight
    torch.manual_seed(8)
    assert not torch.equal(first, instantiate_from_config(config()).time_embed[0].weight)


@pytest.mark.parametrize("options", [
    {}, {"positions": SINCOS}, {"qk_ln": False}, {"use_SwiGLU": True}, {"use_RMSNorm": True}, {"patch_size": [3, 2, 2]},
    {"elementwise_affine": False}, {"transformer_args": {"layernorm_order": "sandwich"}},
    {"positions": {**ROTARY, "params": {**ROTARY["params"], "learnable_pos_embed": True}}}], ids=str)
def test_gradient_reaches_every_parameter(options):
    model = build(**options)
    model(*inputs()).square().mean().backward()
    for name, p in model.named_parameters():
        key_shift = "key_layernorm" in name and name.endswith("bias")
        assert p.grad is not None and (key_shift or p.grad.abs().max() > 0), name


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other():
    model, (x, t, text) = build(), inputs(batch=3)
    torch.testing.assert_close(model(x, t, text)[1:2], model(x[1:2], t[1:2], text[1:2]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_a_skipped_layer_is_one_whose_gates_are_closed(layers):
    model, given = build(), inputs()
    skipped, without_attention = (model(*given, **{key: layers}) for key in ("skip_layers", "skip_attention"))
    assert not torch.allclose(skipped, without_attention)
    for half, expected in ((0, without_attention), (1, skipped)):  # the gates of attention, then those of the MLP too
        for layer in layers:
            linear = model.mixins["adaln_layer"].adaLN_modulations[layer][1]
            for part in (linear.weight, linear.bias):
                part.unflatten(0, (2, 2, 3, -1))[:, half, 2] = 0  # (video or text, attention or MLP, shift scale gate)
        torch.testing.assert_close(model(*given), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_that_attend_to_themselves_alone_do_not_see_each_other():
    model, (x, t, text) = build(), inputs()
    touched = x.clone()
    touched[:, 1, :, 2:4, 4:6] += 1.0  # one patch
    elsewhere = torch.ones(3, 6, 8, dtype=torch.bool)
    elsewhere[1, 2:4, 4:6] = False
    before, after = (model(latents, t, text, identity_attention=[0, 1]) for latents in (x, touched))
    assert torch.equal(before.transpose(1, 2)[:, :, elsewhere], after.transpose(1, 2)[:, :, elsewhere])
    assert not torch.equal(before, after)
    assert len({float(model(x, t, text, identity_attention=layers).sum()) for layers in ([], [0], [1], [0, 1])}) == 4


@torch.no_grad()
def test_one_timestep_for_all_rows():
    model, (x, t, text) = build(ofs_embed_dim=32), inputs()
    shared = model(x, t[:1], text, ofs=torch.tensor([2.0]))
    each = model(x, t[:1].expand(2), text, ofs=torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(shared, each, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_ofs_of_each_row():
    model, (x, t, text) = build(ofs_embed_dim=32), inputs()
    out = model(x, t, text, ofs=torch.tensor([1.5, 3.0]))
    torch.testing.assert_close(out[1:], model(x[1:], t[1:], text[1:], ofs=torch.tensor([3.0])), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="ofs is missing"):
        model(x, t, text)


@pytest.mark.parametrize("num_classes,y", [(5, torch.tensor([1, 4])), ("continuous", torch.tensor([[0.5], [2.0]])),
                                           ("timestep", torch.tensor([3.0, 700.0])), ("sequential", torch.ones(2, 7))])
@torch.no_grad()
def test_labels_matter(num_classes, y):
    model, args = build(num_classes=num_classes, adm_in_channels=7), inputs()
    assert not torch.allclose(model(*args, y=y), model(*args, y=torch.zeros_like(y)))
    with pytest.raises(ValueError, match="labels y missing"):
        model(*args)


# Positions

def rotary(grid=(4, 6, 8), head=HEAD):
    return Rotary3DPositionEmbeddingMixin(grid[1], grid[2], grid[0], 2 * head, head, text_length=TEXT)


def test_rotary_scores_depend_on_distance_alone():
    t, h, w = grid = (4, 6, 8)
    cos, sin = rotary().rotary(grid, 0, torch.device("cpu"))
    q, k = torch.randn(2, 1, 1, 1, HEAD, generator=torch.Generator().manual_seed(0))
    def at(x, place):
        return rotate(x.expand(1, 1, t * h * w, HEAD), (cos, sin)).view(t, h, w, HEAD)[place]
    score = at(q, (1, 2, 3)) @ at(k, (0, 4, 1))
    torch.testing.assert_close(at(q, (3, 3, 7)) @ at(k, (2, 5, 5)), score, atol=1e-4, rtol=1e-4)
    assert not torch.isclose(at(q, (1, 2, 3)) @ at(k, (0, 4, 2)), score)


def test_rotary_leaves_text_alone_and_crops_at_the_corner():
    x = torch.randn(1, 2, TEXT + 2 * 3 * 4, HEAD)
    small, large = (rotary().rotary(grid, TEXT, x.device) for grid in ((2, 3, 4), (4, 6, 8)))
    assert torch.equal(rotate(x, small)[:, :, :TEXT], x[:, :, :TEXT])
    for a, b in zip(small, large, strict=True):
        assert torch.equal(a[TEXT:].view(2, 3, 4, -1), b[TEXT:].view(4, 6, 8, -1)[:2, :3, :4])


def test_rotary_splits_the_head_into_16_24_24():
    cos, sin = rotary(head=64).rotary((4, 6, 8), 0, torch.device("cpu"))
    moves = sin.view(4, 6, 8, 32)
    assert torch.equal(moves[2, 0, 0].nonzero().flatten(), torch.arange(8))
    assert torch.equal(moves[0, 2, 0].nonzero().flatten(), torch.arange(8, 20))
    assert torch.equal(moves[0, 0, 2].nonzero().flatten(), torch.arange(20, 32))


def test_sincos_table_axis_by_axis():
    mixin = Basic3DPositionEmbeddingMixin(3, 5, 4, 64, text_length=TEXT, height_interpolation=1.5,
                                          width_interpolation=2.5, time_interpolation=1.25)
    mixin.reinit()
    assert mixin.pos_embedding[0, :TEXT].abs().max() == 0
    table = mixin.pos_embedding[0, TEXT:].view(4, 3, 5, 64)
    at = table[2, 1, 4]
    places = ((2 / 1.25, 16), (4 / 2.5, 24), (1 / 1.5, 24))  # time, column, row
    for part, (position, width) in zip(at.split((16, 24, 24)), places, strict=True):
        angles = position / 10000 ** (torch.arange(width // 2) / (width / 2))
        torch.testing.assert_close(part, torch.cat((angles.sin(), angles.cos())), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_interpolation_in_either_place():
    inside = {**SINCOS, "params": {**SINCOS["params"], "height_interpolation": 1.875}}
    a, b = build(inside), build(SINCOS, height_interpolation=1.875)
    assert torch.equal(a(*inputs()), b(*inputs()))
    assert not torch.equal(a(*inputs()), build(SINCOS)(*inputs()))
    with pytest.raises(ConfigError, match="height_interpolation"):
        build(inside, height_interpolation=2.0)


def test_rotation_of_values_is_refused():
    with pytest.raises(ConfigError, match="pos_embed_config.params.rot_v is true"):
        build({**ROTARY, "params": {**ROTARY["params"], "rot_v": True}})
    build({**ROTARY, "params": {**ROTARY["params"], "rot_v": False}})


def test_2d_positions_repeat_over_frames():
    mixin = Basic2DPositionEmbeddingMixin(3, 4, 2, 32, text_length=1)
    mixin.reinit()
    assert mixin.pos_embedding.shape == (1, 13, 32)
    model = build({"target": "dit_video_concat.Basic2DPositionEmbeddingMixin", "params": {"text_length": TEXT}})
    assert model(*inputs()).shape == (2, 3, 4, 6, 8)


@pytest.mark.parametrize("positions", [ROTARY, SINCOS], ids=["rotary", "sincos"])
def test_a_video_beyond_the_positions_is_refused(positions):
    x, t, text = inputs(latent=(5, 4, 6, 8))
    with pytest.raises(ConfigError, match=r"\(5, 3, 4\).*fits: \(3, 3, 4\)"):
        build(positions)(x, t, text)


def test_text_length_of_a_table_is_checked():
    x, t, text = inputs()
    with pytest.raises(ConfigError, match="text_length"):
        build(SINCOS)(x, t, text[:, 1:])


def test_time_sinusoid_starts_with_cosines():
    emb = timestep_embedding(torch.tensor([0.0, 500.0]), 8)
    assert emb[0].tolist() == [1.0] * 4 + [0.0] * 4
    angles = 500.0 / 10000 ** (torch.arange(4) / 4)
    torch.testing.assert_close(emb[1], torch.cat((angles.cos(), angles.sin())), atol=1e-5, rtol=1e-5)


# Patches, attention, modulation

@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (3, 1, 4)])
def test_patches_round_trip(patch):
    x = torch.randn(2, 6, 5, 4, 8)
    grid = tuple(s // p for s, p in zip((6, 4, 8), patch, strict=True))
    assert torch.equal(unpatchify(patchify(x, patch), grid, patch), x)


def test_patch_embedding_is_the_convolution():
    x, weight = torch.randn(2, 4, 5, 6, 8), torch.randn(7, 5, 2, 2, 2)
    expected = F.conv3d(x.transpose(1, 2), weight, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patchify(x, (2, 2, 2)) @ weight.flatten(1).T, expected, atol=1e-4, rtol=1e-4)


def test_a_number_as_patch_size():
    assert parse_patch_size(2) == (1, 2, 2)
    assert build(patch_size=2).patch_size == (1, 2, 2)
    for wrong in (0, [2, 2], [1, 2, -2]):
        with pytest.raises(ConfigError, match="patch_size"):
            parse_patch_size(wrong)


def test_uneven_latents_name_the_nearest_size():
    x, t, text = inputs(latent=(3, 4, 6, 8))
    with pytest.raises(ConfigError, match=r"nearest that do: \(4, 6, 8\)"):
        build(patch_size=[2, 2, 2], num_frames=13)(x, t, text)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@torch.no_grad()
def test_attention_equals_its_definition(dtype, tolerance):
    q, k, v = torch.randn(3, 1, 2, 300, HEAD, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) / HEAD ** 0.5
    expected = torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), v.double()).flatten(2)
    torch.testing.assert_close(attention(q, k, v).double(), expected, atol=tolerance, rtol=tolerance)


# Execution: recomputed activations, compilation, other precisions

def gradients(model):
    model.train()(*inputs()).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_recomputed_activations_give_the_same_gradients():
    plain, recomputed = gradients(build()), gradients(build(transformer_args={"checkpoint_activations": True}))
    for name, grad in plain.items():
        torch.testing.assert_close(recomputed[name], grad, msg=name)


def test_offloaded_inputs_of_layers_give_the_same_gradients(monkeypatch):
    kept = []

    def away(**given):  # pinned memory needs an accelerator
        return torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.detach().clone()) or len(kept) - 1,
                                                        lambda place: kept[place])

    monkeypatch.setattr(stack, "save_on_cpu", away)
    plain = gradients(build())
    moved = gradients(build(transformer_args={"checkpoint_activations": True, "offload_activations": True}))
    tokens = [x for x in kept if x.ndim == 3]
    assert len(tokens) == len(build().transformer.layers), "the input of each layer, and nothing within"
    for name, grad in plain.items():
        torch.testing.assert_close(moved[name], grad, msg=name)


@pytest.mark.slow
@torch.no_grad()
def test_traced_for_compilation_in_one_graph():
    model = build()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs()), model(*inputs()), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("layers, positions", [(5, ROTARY), (3, SINCOS)])
def test_layers_are_compiled_once_for_all(layers, positions):
    model = build(positions, num_layers=layers)
    exact, keys = model(*inputs()), list(model.state_dict())
    torch.compiler.reset()
    compiled = CompileCounter()
    model.compile_layers(backend=compiled)
    torch.testing.assert_close(model(*inputs()), exact, atol=1e-5, rtol=1e-5)
    assert compiled.frame_count == 2, "all layers but the last; the last"
    assert list(model.state_dict()) == keys


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_layers_compute_the_same():
    model = build(num_layers=1)
    exact = model(*inputs())
    model.compile_layers()
    torch.testing.assert_close(model(*inputs()), exact, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_in_bfloat16_and_autocast():
    exact, args = build(), inputs()
    half = build(dtype="bf16")
    assert half.dtype == torch.bfloat16 and half(*args).dtype == torch.float32
    torch.testing.assert_close(half(*args), exact(*args), atol=0.15, rtol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(exact(*args), exact(*args).float(), atol=0.15, rtol=0.1)


# Loading

def test_released_keys_load_strictly():
    model = build()
    state = model.state_dict()
    assert not any("position_embeddings" in key or "freqs" in key for key in state)
    old = dict(state)
    old["mixins.patch_embed.proj.weight"] = state["mixins.patch_embed.proj.weight"].view(64, 4, 2, 2)
    old["transformer.position_embeddings.weight"] = torch.zeros(64, 64)
    old["mixins.pos_embed.freqs_sin"] = old["mixins.pos_embed.freqs_cos"] = torch.zeros(3, 3, 4, HEAD)
    fresh = instantiate_from_config(config())
    for target, prefix in ((fresh, ""), (OpenAIWrapper(instantiate_from_config(config())), "diffusion_model.")):
        target.load_state_dict({prefix + key: value for key, value in old.items()}, strict=True)
    assert torch.equal(fresh(*inputs()), model(*inputs()))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fresh.load_state_dict(old | {"transformer.other.weight": torch.zeros(1)}, strict=True)


@torch.no_grad()
def test_lora_starts_as_the_base_model_and_loads_its_weights():
    lora = {"lora_config": {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 4}}}
    base, tuned = build(), instantiate_from_config(config(extra_modules=lora))
    tuned.load_state_dict(base.state_dict(), strict=True)
    torch.testing.assert_close(tuned.eval()(*inputs()), base(*inputs()), atol=1e-5, rtol=1e-5)
    matrices = [p for name, p in tuned.named_parameters() if "matrix_B" in name]
    assert len(matrices) == 8
    nn.init.ones_(matrices[0])
    assert not torch.allclose(tuned(*inputs()), base(*inputs()))


# Sizes of the released models

LARGE_GRID = dict(num_frames=81, latent_width=300, latent_height=300)

def released(hidden, layers, patch, text, sincos=False, learned=False, **params):
    heads = hidden // 64
    positions = {"target": f"dit_video_concat.{'Basic3D' if sincos else 'Rotary3D'}PositionEmbeddingMixin",
                 "params": {"text_length": text}}
    if not sincos:
        positions["params"] |= {"hidden_size_head": 64, "learnable_pos_embed": learned}
    tree = config(positions, hidden_size=hidden, num_layers=layers, num_attention_heads=heads, patch_size=patch,
                  time_embed_dim=512, adm_in_channels=256, **{"out_channels": 16, "in_channels": 16, "latent_width": 90,
                  "latent_height": 60, "num_frames": 49, **params},
                  transformer_args={"vocab_size": 1, "max_sequence_length": 64, "layernorm_order": "pre",
                                    "skip_init": False, "model_parallel_size": 1, "is_decoder": False})
    tree["params"]["modules"]["patch_embed_config"]["params"]["text_hidden_size"] = 4096
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("name,tree,count", [
    ("2b", released(1920, 30, 2, 226, sincos=True), 1_693_783_872),
    ("5b", released(3072, 42, 2, 226), 5_570_283_072),
    ("5b-i2v", released(3072, 42, 2, 226, learned=True, in_channels=32), 5_570_479_680),
    ("1.5-5b", released(3072, 42, [2, 2, 2], 224, **LARGE_GRID), 5_570_676_352),
    ("1.5-5b-i2v", released(3072, 42, [2, 2, 2], 224, in_channels=32, ofs_embed_dim=512, **LARGE_GRID), 5_571_594_880),
], ids=lambda v: v if isinstance(v, str) else "")
def test_parameter_counts_of_the_released_models(name, tree, count):
    check_config(tree)
    with torch.device("meta"):
        model = instantiate_from_config(tree)
    assert sum(p.numel() for key, p in model.named_parameters() if "pos_embedding" not in key) == count
    assert {p.device.type for p in model.parameters()} == {"meta"}


# User errors

@pytest.mark.parametrize("options,message", [
    ({"hidden_size": 66, "num_attention_heads": 4}, "66 is no multiple of num_attention_heads 4"),
    ({"latent_width": 7}, "latent_width 7"),
    ({"input_time": "concat"}, "'concat'"),
    ({"ofs_embed_dim": 16}, "ofs_embed_dim 16 differs from time_embed_dim 32"),
    ({"num_classes": "many"}, "'many'"),
    ({"transformer_args": {"checkpoint_activation": True}}, "did you mean checkpoint_activations"),
    ({"transformer_args": {"layernorm_order": "post"}}, "'post'"),
    ({"transformer_args": {"is_decoder": True}}, "is_decoder"),
    ({"transformer_args": {"model_parallel_size": 2}}, "model_parallel_size 2"),
    ({"extra_modules": {"lora_confg": {}}}, "did you mean lora_config"),
    ({"positions": {**ROTARY, "params": {"text_length": 6, "hidden_size_head": 64}}}, "hidden_size_head: 64"),
    ({"hidden_size": 48, "positions": {**ROTARY, "params": {"text_length": 6, "hidden_size_head": 24}}},
     "24 is not a multiple of 16"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_mistakes_get_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        instantiate_from_config(config(**options))
    assert "\n" not in str(caught.value)


def test_wrong_channels_are_explained():
    x, t, text = inputs()
    with pytest.raises(ConfigError, match="latents of 4 channels, but the transformer's in_channels is 8"):
        build(in_channels=8)(x, t, text)
