"""The `config.json` files that diffusers reads beside its weights."""
from collections.abc import Mapping

from common.errors import ConfigError
from common.patches import parse_patch_size
from configuration.yaml_files import require
from weights.diffusers_layout import position_params


def transformer_config(network: Mapping) -> dict:
    """Return diffusers' config.json for a transformer built from `network` (`network_config.params`).

    Raises ConfigError for a structure that diffusers lacks.
    """
    positions = require(position_params(network), "pos_embed_config.params", "text_length")
    text = require(network["modules"]["patch_embed_config"].get("params"), "patch_embed_config.params",
                   "text_hidden_size")
    target = network["modules"]["pos_embed_config"]["target"].rpartition(".")[2]
    rotary = target == "Rotary3DPositionEmbeddingMixin"
    patch_t, patch_h, patch_w = parse_patch_size(network["patch_size"])
    scales = {key: network.get(key) or positions.get(key) or 1.0
              for key in ("time_interpolation", "height_interpolation", "width_interpolation")}
    _require(rotary or target == "Basic3DPositionEmbeddingMixin", f"position embedding {target}")
    _require(patch_h == patch_w, f"patch_size {network['patch_size']}")
    _require(scales["height_interpolation"] == scales["width_interpolation"], "interpolation that differs by axis")
    _require(network.get("elementwise_affine", True), "elementwise_affine false")
    _require(not network.get("use_SwiGLU") and not network.get("use_RMSNorm"), "SwiGLU or RMSNorm")
    return {
        "_class_name": "CogVideoXTransformer3DModel", "activation_fn": "gelu-approximate", "attention_bias": True,
        "attention_head_dim": network["hidden_size"] // network["num_attention_heads"], "dropout": 0.0,
        "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": network["in_channels"],
        "max_text_seq_length": positions["text_length"], "norm_elementwise_affine": True, "norm_eps": 1e-5,
        "num_attention_heads": network["num_attention_heads"], "num_layers": network["num_layers"],
        "ofs_embed_dim": network.get("ofs_embed_dim"), "out_channels": network["out_channels"],
        "patch_bias": patch_t == 1, "patch_size": patch_h, "patch_size_t": None if patch_t == 1 else patch_t,
        "sample_frames": network["num_frames"], "sample_height": network["latent_height"],
        "sample_width": network["latent_width"],
        "spatial_interpolation_scale": scales["height_interpolation"],
        "temporal_interpolation_scale": scales["time_interpolation"],
        "temporal_compression_ratio": network["time_compressed_rate"],
        "text_embed_dim": text["text_hidden_size"],
        "time_embed_dim": network.get("time_embed_dim") or network["hidden_size"], "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": bool(positions.get("learnable_pos_embed")),
        "use_rotary_positional_embeddings": rotary,
    }


def vae_config(model: Mapping) -> dict:
    """Return diffusers' config.json for the autoencoder of a `model` section.

    `invert_scale_latents` is set, as in the released folder, for the model whose image latent is not scaled. diffusers
    then divides that latent by the scale factor; this project leaves it unscaled.
    """
    codec = model["first_stage_config"]["params"]["decoder_config"]["params"]
    network = model["network_config"]["params"]
    multipliers = codec.get("ch_mult", (1, 2, 2, 4))
    scale = model.get("scale_factor", 1.0)
    image_scale = model.get("image_latent_scale")
    return {
        "_class_name": "AutoencoderKLCogVideoX", "act_fn": "silu",
        "block_out_channels": [codec["ch"] * m for m in multipliers],
        "down_block_types": ["CogVideoXDownBlock3D"] * len(multipliers),
        "up_block_types": ["CogVideoXUpBlock3D"] * len(multipliers), "force_upcast": True,
        "in_channels": codec.get("in_channels", 3), "out_channels": codec.get("out_ch", 3),
        "invert_scale_latents": image_scale is not None and image_scale != scale,
        "latent_channels": codec["z_channels"], "layers_per_block": codec["num_res_blocks"], "norm_eps": 1e-6,
        "norm_num_groups": codec.get("norm_groups", 32), "scaling_factor": scale,
        "sample_height": network["latent_height"] * 2 ** (len(multipliers) - 1),
        "sample_width": network["latent_width"] * 2 ** (len(multipliers) - 1),
        "temporal_compression_ratio": codec.get("temporal_compress_times", 4),
        "use_quant_conv": False, "use_post_quant_conv": False,
    }


def _require(possible: bool, what: str) -> None:
    if not possible:
        raise ConfigError(f"{what} has no counterpart in diffusers; only the released models' structures convert")
