"""diffusers' models with the weights of this project's models, mapped by the project's own converter."""
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import Tensor, nn

from benchmarks.random_models import Size
from common.patches import parse_patch_size
from tools.convert_weights import fixed_table, parts_of
from weights.diffusers_layout import to_diffusers


def their_network(model: Mapping, ours: nn.Module) -> CogVideoXTransformer3DModel:
    """Return diffusers' transformer with the weights of `ours`; most of them share memory."""
    theirs = _converted(CogVideoXTransformer3DModel, parts_of(model)["transformer"], ours)
    theirs.norm_out.norm.eps = 1e-6  # diffusers takes 1e-5; the released models were trained with 1e-6
    if getattr(theirs.patch_embed, "pos_embedding", None) is not None and theirs.patch_embed.pos_embedding.is_meta:
        weight = theirs.patch_embed.proj.weight
        theirs.patch_embed.pos_embedding = fixed_table(model["network_config"]).to(weight.device, weight.dtype)
    return theirs


def their_vae(model: Mapping, ours: nn.Module) -> AutoencoderKLCogVideoX:
    """Return diffusers' autoencoder with the weights of `ours`."""
    return _converted(AutoencoderKLCogVideoX, parts_of(model)["vae"], ours)


def _converted(kind: type, part, ours: nn.Module) -> nn.Module:
    state = ours.state_dict()
    with torch.device("meta"):
        theirs = kind.from_config(dict(part.config))
    theirs.load_state_dict(dict(to_diffusers(part.links, state)), strict=True, assign=True)
    return theirs.eval().requires_grad_(False)


def rotary(network: nn.Module, size: Size, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return rotary cosines and sines as diffusers takes them: for video tokens only, each angle twice.

    Returns None for a model without rotary positions.
    """
    patch = parse_patch_size(network.patch_size)
    t, _, h, w = size.latent
    tables = network.mixins["pos_embed"].rotary((t // patch[0], h // patch[1], w // patch[2]), 0, device)
    return None if tables is None else tuple(x.repeat_interleave(2, dim=1) for x in tables)
