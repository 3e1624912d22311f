"""Conversion of weights between this project's layout (SwissArmyTransformer's) and that of Hugging Face's diffusers.

A `Link` joins a tensor of this project with diffusers' tensors that hold the same elements, and serves both directions.
diffusers' config.json files are made from a preset's `model` section, with the values of the released folders.
"""
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from common.errors import ConfigError
from common.patches import parse_patch_size
from weights.links import MERGES, SPLITS, Link

PATCH = "mixins.patch_embed.proj.weight"
TABLE = "mixins.pos_embed.pos_embedding"
THEIR_TABLE = "patch_embed.pos_embedding"

BLOCK = "transformer_blocks.{i}."
TRANSFORMER_NAMES = {
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "ofs_embed.0": ("ofs_embedding.linear_1",),
    "ofs_embed.2": ("ofs_embedding.linear_2",),
    "mixins.patch_embed.proj": ("patch_embed.proj",),
    "mixins.patch_embed.text_proj": ("patch_embed.text_proj",),
    "transformer.layers.{i}.input_layernorm": (BLOCK + "norm1.norm",),
    "transformer.layers.{i}.post_attention_layernorm": (BLOCK + "norm2.norm",),
    "transformer.layers.{i}.attention.query_key_value": tuple(f"{BLOCK}attn1.to_{x}" for x in "qkv"),
    "transformer.layers.{i}.attention.dense": (BLOCK + "attn1.to_out.0",),
    "transformer.layers.{i}.mlp.dense_h_to_4h": (BLOCK + "ff.net.0.proj",),
    "transformer.layers.{i}.mlp.dense_4h_to_h": (BLOCK + "ff.net.2",),
    "mixins.adaln_layer.adaLN_modulations.{i}.1": (BLOCK + "norm1.linear", BLOCK + "norm2.linear"),
    "mixins.adaln_layer.query_layernorm_list.{i}": (BLOCK + "attn1.norm_q",),
    "mixins.adaln_layer.key_layernorm_list.{i}": (BLOCK + "attn1.norm_k",),
    "transformer.final_layernorm": ("norm_final",),
    "mixins.final_layer.norm_final": ("norm_out.norm",),
    "mixins.final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "mixins.final_layer.linear": ("proj_out",),
}


def transformer_links(names: Iterable[str], network: Mapping) -> list[Link]:
    """Return a link for each tensor of a transformer built from `network` (`network_config.params`).

    Raises ConfigError for a tensor that diffusers' transformer lacks.
    """
    patch_t, *patch = parse_patch_size(network["patch_size"])
    learned = bool(position_params(network).get("learnable_pos_embed"))
    return [_transformer_link(name, patch if patch_t == 1 else None, learned) for name in names]


def is_diffusers_transformer(names: Iterable[str]) -> bool:
    return any(name.startswith("transformer_blocks.") for name in names)


def links_from_diffusers(theirs: Mapping[str, Tensor]) -> list[Link]:
    """Return links that convert a transformer from diffusers' layout, without needing its configuration.

    Tensors that this project's transformer lacks, or that are incomplete, keep their names.
    """
    convolution = theirs["patch_embed.proj.weight"].shape[2:] if "patch_embed.proj.weight" in theirs else ()
    names = dict.fromkeys(filter(None, map(_name_here, theirs)))
    links = [_transformer_link(name, convolution or None, True) for name in names]
    links = [link for link in links if all(name in theirs for name in link.theirs)]
    used = {name for link in links for name in link.theirs}
    return [*links, *(Link(name, (name,)) for name in theirs if name not in used)]


def _transformer_link(name: str, convolution: Sequence[int] | None, learned: bool) -> Link:
    """Return the link of one tensor.

    `convolution` is a patch's height and width if diffusers embeds patches by a convolution, else None. `learned`:
    diffusers stores the table of positions, too. Raises ConfigError for a tensor that diffusers lacks.
    """
    if name == TABLE:
        return Link(name, (THEIR_TABLE,) if learned else ())
    stem, _, kind = name.rpartition(".")
    theirs = diffusers_names(stem)
    if theirs is None:
        raise ConfigError(f"the transformer's {name} has no place in diffusers' layout; only the released models' "
                          "structures can be converted, after any LoRA is merged into them")
    theirs = tuple(f"{x}.{kind}" for x in theirs)
    if name == PATCH and convolution is not None:
        return Link(name, theirs, split=lambda w: (w.unflatten(1, (-1, *convolution)),), merge=lambda w: w.flatten(1))
    return Link(name, theirs, split=SPLITS[len(theirs)], merge=MERGES[len(theirs)])


def vae_links(names: Iterable[str], levels: int) -> list[Link]:
    """Return a link for each tensor of an autoencoder with `levels` resolutions; only the names differ."""
    return [Link(name, (_vae_name(name, levels),)) for name in names]


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets.", name)
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"\.mid\.block_(\d+)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
    # Decoder levels are numbered from the output inwards here, from the middle outwards in diffusers.
    name = re.sub(r"\.up\.(\d+)\.block\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
    name = re.sub(r"\.up\.(\d+)\.upsample\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.")


def diffusers_names(stem: str) -> tuple[str, ...] | None:
    """Return diffusers' names for a part of the transformer (a tensor's name without `.weight`), or None."""
    for ours, theirs in TRANSFORMER_NAMES.items():
        match = _match(ours, stem)
        if match:
            return tuple(name.format(**match.groupdict()) for name in theirs)
    return None


def _name_here(name: str) -> str | None:
    """Return the name in this project of the tensor that one of diffusers belongs to; None if there is none."""
    if name == THEIR_TABLE:
        return TABLE
    stem, _, kind = name.rpartition(".")
    for ours, theirs in TRANSFORMER_NAMES.items():
        for match in filter(None, (_match(part, stem) for part in theirs)):
            return f"{ours.format(**match.groupdict())}.{kind}"
    return None


def _match(template: str, stem: str) -> re.Match | None:
    return re.fullmatch(re.escape(template).replace(re.escape("{i}"), r"(?P<i>\d+)"), stem)


def to_diffusers(links: Iterable[Link], state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors in diffusers' layout; each link's tensors are made when they are asked for."""
    for link in links:
        if link.theirs:
            yield from zip(link.theirs, link.split(state[link.name]), strict=True)


def position_params(network: Mapping) -> Mapping:
    return network["modules"]["pos_embed_config"].get("params") or {}
