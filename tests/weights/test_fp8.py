"""Weights stored in float8 are the product with their scales; other quantized weights are refused."""
import logging

import pytest
import torch
from safetensors.torch import save_file

from common.errors import CheckpointError
from configuration.targets import instantiate_from_config
from tests.dit_models import build
from tests.released_structures import first_stage, model_config, random_vae, structure_of
from weights.diffusers_layout import to_diffusers, transformer_links
from weights.network import build_network, check_network
from weights.sources import transformer_weights

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CONFIG = model_config("5b")["network_config"]


def quantized(state, dtype=E4M3, scale="scale_weight", rows=False, prefix=""):
    """The matrices of a state dict in float8 with scales, or without if `scale` is None; the rest in bfloat16."""
    stored, expected = {}, {}
    for name, value in state.items():
        if value.ndim < 2:
            stored[name] = expected[name] = value.bfloat16()
            continue
        factor = torch.ones(1)
        if scale is not None:
            factor = (value.flatten(1).abs().amax(1) if rows else value.abs().max()) / torch.finfo(dtype).max
            stored[f"{name.removesuffix('.weight')}.{scale}"] = factor.reshape(-1, 1) if rows else factor
        factor = factor.reshape(-1, *[1] * (value.ndim - 1)) if factor.numel() > 1 else factor
        stored[name] = (value / factor).to(dtype)
        expected[name] = stored[name].float() * factor
    return {prefix + name: value.contiguous() for name, value in stored.items()}, expected


@pytest.mark.parametrize("layout", ["ours", "diffusers"])
@pytest.mark.parametrize("settings", [dict(), dict(dtype=E5M2), dict(scale="weight_scale", rows=True), dict(scale=None),
                                      dict(prefix="model.diffusion_model.")])
def test_a_transformer_is_the_product_with_its_scales(layout, settings, tmp_path, caplog):
    state = build(**structure_of("5b")).state_dict()
    links = transformer_links(state, CONFIG["params"])
    if layout == "diffusers":
        state = dict(to_diffusers(links, state))
    stored, expected = quantized(state, **settings)
    prefix = settings.get("prefix", "")
    extra = {f"{prefix}scaled_fp8": torch.empty(2, dtype=E4M3),
             f"{prefix}{next(n for n in state if n.endswith('weight')).removesuffix('.weight')}.scale_input":
             torch.tensor(0.3)}
    save_file(stored | extra, tmp_path / "fp8.safetensors")
    if layout == "diffusers":
        expected = {link.name: link.merge(*(expected[name] for name in link.theirs)) for link in links}
    check_network(CONFIG, tmp_path / "fp8.safetensors")
    with caplog.at_level(logging.INFO):
        loaded = build_network(CONFIG, tmp_path / "fp8.safetensors", torch.float32, "cpu").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    count = sum(name.endswith(("scale_weight", "weight_scale")) for name in stored)
    assert (f"float8 with {count} scales" if count else "float8 without scales") in caplog.text
    read = transformer_weights(tmp_path / "fp8.safetensors").read()
    assert all(torch.equal(read[name], value.bfloat16()) for name, value in expected.items() if value.ndim == 2)


def test_an_autoencoder_of_a_whole_checkpoint_too(tmp_path):
    stored, expected = quantized(random_vae().state_dict(), prefix="first_stage_model.")
    save_file(stored | {"model.diffusion_model.time_embed.0.weight": torch.ones(3)}, tmp_path / "all.safetensors")
    config = first_stage()
    config["params"]["ckpt_path"] = str(tmp_path / "all.safetensors")
    loaded = instantiate_from_config(config).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in expected.items())


@pytest.mark.parametrize("change, says", [
    (lambda w: {"time_embed.0.weight": w["time_embed.0.weight"].to(torch.int8)}, "quantized in a way that is not read "
     ".time_embed.0.weight is int8"),
    (lambda w: {"time_embed.0.weight._data": torch.ones(3, dtype=torch.int8)}, "quantized by quanto"),
    (lambda w: {"time_embed.0.weight.absmax": torch.ones(3)}, "quantized by bitsandbytes"),
    (lambda w: {"time_embed.0.weight": w["time_embed.0.weight"].to(E4M3), "time_embed.0.scale_weight": torch.ones(7)},
     "time_embed.0.scale_weight of shape .7,. does not scale"),
    (lambda w: {"time_embed.0.weight": w["time_embed.0.weight"].to(torch.int32)}, 
     "types differ: time_embed.0.weight is int32, wanted float32"),
    (lambda w: {"time_embed.0.weight": w["time_embed.0.weight"].to(torch.complex64)}, "is complex64, wanted float32"),
])
def test_what_is_not_read_is_refused(change, says, tmp_path):
    state = build(**structure_of("5b")).state_dict()
    save_file(state | change(state), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=says):
        check_network(CONFIG, tmp_path / "a.safetensors")
