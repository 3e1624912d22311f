"""Tests of the released models' presets on the meta device: structure, parameter counts and sizes."""
import re
from functools import cache
from math import prod

import pytest
import torch
from omegaconf import OmegaConf

import sample_video
from arguments import get_args
from common.files import REPOSITORY
from configuration.model import ModelConfig
from configuration.targets import check_config, instantiate_from_config
from inference.sizes import extend_positions, model_limits, plan_video

# name: parameters without position tables, layers, hidden size, elements per patch in and out, latent grid (T, H, W)
RELEASED = {
    "cogvideox_2b": (1_693_783_872, 30, 1920, (64, 64), (13, 60, 90)),
    "cogvideox_5b": (5_570_283_072, 42, 3072, (64, 64), (13, 60, 90)),
    "cogvideox_5b_i2v": (5_570_479_680, 42, 3072, (128, 64), (13, 60, 90)),
    "cogvideox1.5_5b": (5_570_676_352, 42, 3072, (128, 128), (22, 96, 170)),
    "cogvideox1.5_5b_i2v": (5_571_594_880, 42, 3072, (256, 128), (22, 96, 170)),
}
PRESETS = list(RELEASED)
VAE_PARAMETERS = 215_583_907


@cache
def preset(name):
    return get_args(["--base", f"configs/{name}.yaml", "configs/inference.yaml"])


@cache
def network(name):
    with torch.device("meta"):
        return instantiate_from_config(preset(name).model_config.network_config)


def released_shapes(name):
    """Return names and shapes in the checkpoint of a released model, without position tables."""
    _, layers, d, (patch_in, patch_out), _ = RELEASED[name]
    linears = {"time_embed.0": (512, d), "time_embed.2": (512, 512), "mixins.patch_embed.proj": (d, patch_in),
               "mixins.patch_embed.text_proj": (d, 4096), "mixins.final_layer.linear": (patch_out, d),
               "mixins.final_layer.adaLN_modulation.1": (2 * d, 512), "transformer.final_layernorm": (d,),
               "mixins.final_layer.norm_final": (d,)}
    if name == "cogvideox1.5_5b_i2v":
        linears |= {"ofs_embed.0": (512, 512), "ofs_embed.2": (512, 512)}
    for i in range(layers):
        layer, adaln = f"transformer.layers.{i}", "mixins.adaln_layer"
        linears |= {f"{layer}.input_layernorm": (d,), f"{layer}.post_attention_layernorm": (d,),
                    f"{layer}.attention.query_key_value": (3 * d, d), f"{layer}.attention.dense": (d, d),
                    f"{layer}.mlp.dense_h_to_4h": (4 * d, d), f"{layer}.mlp.dense_4h_to_h": (d, 4 * d),
                    f"{adaln}.adaLN_modulations.{i}.1": (12 * d, 512),
                    f"{adaln}.query_layernorm_list.{i}": (64,), f"{adaln}.key_layernorm_list.{i}": (64,)}
    weights = {f"{key}.weight": shape for key, shape in linears.items()}
    return weights | {f"{key}.bias": shape[:1] for key, shape in linears.items()}


@pytest.mark.parametrize("name", PRESETS)
def test_transformer_has_the_keys_shapes_and_count_of_the_released_one(name):
    shapes = {key: tuple(value.shape) for key, value in network(name).state_dict().items()
              if key != "mixins.pos_embed.pos_embedding"}
    assert shapes == released_shapes(name)
    assert sum(map(prod, shapes.values())) == RELEASED[name][0]


def test_position_tables_cover_text_and_video():
    tables = {name: network(name).state_dict().get("mixins.pos_embed.pos_embedding") for name in PRESETS}
    video = 13 * 30 * 45
    assert {name: tuple(t.shape) for name, t in tables.items() if t is not None} == {
        "cogvideox_2b": (1, 226 + video, 1920), "cogvideox_5b_i2v": (1, 226 + video, 3072)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_part_of_the_model_is_known_and_fits(name):
    config = preset(name).model_config
    check_config(config)
    model = ModelConfig.read(config)
    assert model.noised_image_input == name.endswith("i2v")
    shifts = re.findall(r"'shift_scale': ([\d.]+)", str(OmegaConf.to_container(config)))
    assert set(map(float, shifts)) == {3.0 if name == "cogvideox_2b" else 1.0} and len(shifts) == 3


def test_image_latents_are_scaled_as_trained():
    scales = {name: (preset(name).model_config.scale_factor, preset(name).model_config.get("image_latent_scale"))
              for name in PRESETS}
    assert scales == {"cogvideox_2b": (1.15258426, None), "cogvideox_5b": (0.7, None), "cogvideox_5b_i2v": (0.7, 0.7),
                      "cogvideox1.5_5b": (0.7, None), "cogvideox1.5_5b_i2v": (0.7, 1.0)}


def test_all_share_the_released_autoencoder():
    config = OmegaConf.to_container(preset("cogvideox_5b").model_config.first_stage_config)
    config["params"].pop("ckpt_path")
    for name in PRESETS:
        other = OmegaConf.to_container(preset(name).model_config.first_stage_config)
        assert other["params"].pop("ckpt_path") == f"checkpoints/{name}/vae/3d-vae.pt"
        assert other == config
    with torch.device("meta"):
        vae = instantiate_from_config(config)
    assert sum(p.numel() for p in vae.parameters()) == VAE_PARAMETERS


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_as_released(name):
    args = preset(name)
    plan = plan_video(model_limits(args.model_config), args.sampling)
    latents, height, width = RELEASED[name][-1]
    newer = name.startswith("cogvideox1.5")
    assert plan.latent_shape == (latents, 16, height, width)
    assert (plan.frames, plan.pad_latents, plan.fps) == ((81, 1, 16) if newer else (49, 0, 8))
    assert (args.run.fp16, args.run.bf16) == ((True, False) if name == "cogvideox_2b" else (False, True))


@pytest.mark.parametrize("name", [name for name in PRESETS if "1.5" in name])
def test_newer_models_reach_161_frames(name):
    args = preset(name).changed(num_frames=161)
    plan = plan_video(model_limits(args.model_config), args.sampling)
    assert (plan.latent_frames, plan.pad_latents) == (42, 1)
    model = OmegaConf.create(OmegaConf.to_container(args.model_config))
    extend_positions(model, 161)
    with torch.device("meta"):
        longer = instantiate_from_config(model.network_config)
    assert longer.mixins["pos_embed"].rotary((21, 48, 85), 224, "meta")[0].shape == (224 + 21 * 48 * 85, 32)


def quirky(name, interpolations_on_top):
    """Return the configuration as released files write it: a scalar patch size, unused keys, interpolations in either
    place."""
    config = OmegaConf.to_container(preset(name).model_config.network_config)
    params = config["params"]
    params |= {"patch_size": 2, "adm_in_channels": 256}
    params["transformer_args"] |= {"vocab_size": 1, "max_sequence_length": 64, "skip_init": False, "is_decoder": False}
    positions = params["modules"]["pos_embed_config"]["params"]
    given = {k: positions.pop(k) for k in ("height_interpolation", "width_interpolation") if k in positions}
    (params if interpolations_on_top else positions).update(given)
    return config


@pytest.mark.parametrize("on_top", [False, True])
@pytest.mark.parametrize("name", PRESETS[:3])
def test_released_ways_of_writing_build_the_same_network(name, on_top):
    config = quirky(name, on_top)
    check_config(config)
    config["params"]["num_layers"] = 1
    with torch.device("meta"):
        built = instantiate_from_config(config)
    expected, own = network(name), built.state_dict()
    assert own and {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in expected.state_dict().items() if key in own}
    assert built.patch_size == expected.patch_size
    positions, wanted = (vars(model.mixins["pos_embed"]) for model in (built, expected))
    assert positions.get("interpolations") == wanted.get("interpolations")


@pytest.mark.parametrize("name", PRESETS)
def test_header_tells_command_cost_and_folders(name):
    text = (REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    header = text[:text.index("args:")]
    for needed in (f"bash inference.sh configs/{name}.yaml", "Published", "H100", "GB", f"checkpoints/{name}/",
                   "transformer/", "vae/3d-vae.pt", "t5/", "zai-org/CogVideo"):
        assert needed in header


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("key, part", [
    ("args.load", "transformer"), ("model.conditioner_config.params.emb_models.0.params.model_dir", "t5")])
def test_missing_download_is_one_line(name, key, part, capsys, tmp_path):
    missing = f"checkpoints/{name}-not-downloaded/{part}"
    code = sample_video.main(["--base", f"configs/{name}.yaml", "configs/inference.yaml", f"args.load={tmp_path}",
                              f"{key}={missing}"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ") and missing in lines[0]
