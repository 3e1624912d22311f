"""The release's layout of transformer weights, brought to this project's."""
from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from weights.checkpoint import NETWORK_PREFIX
from weights.diffusers_layout import PATCH
from weights.links import Link


def same_link(name: str) -> Link:
    return Link(name, (name,))


def links_from_release(state: Mapping[str, Tensor]) -> list[Link]:
    """Return links for a transformer in this project's or the release's layout, alone or in a whole model."""
    theirs = {name.removeprefix(NETWORK_PREFIX): name for name in state if name.startswith(NETWORK_PREFIX)}
    theirs = theirs or {name: name for name in state}
    modern = {name: state[other] for name, other in theirs.items()}
    modernize(modern)
    links = {name: Link(name, (theirs[name],)) for name in modern}
    if PATCH in links:
        links[PATCH] = Link(PATCH, (theirs[PATCH],), merge=lambda w: w.flatten(1))
    return list(links.values())


RELEASED_TABLES = ("freqs_sin", "freqs_cos")


def modernize(state_dict: MutableMapping[str, torch.Tensor], prefix: str = "") -> None:
    """Convert a released transformer's state dict, whose keys start with `prefix`, to this project's layout, in place.

    Removes position tables that are computed or unused. A patch embedding stored as a convolution, (D, C, [pt,] ph,
    pw), becomes a linear layer's matrix (D, C·pt·ph·pw) with the same elements in the same order.
    """
    for key in ("transformer.position_embeddings.weight", "transformer.word_embeddings.weight",
                *(f"mixins.pos_embed.{table}" for table in RELEASED_TABLES)):
        state_dict.pop(prefix + key, None)
    key = prefix + "mixins.patch_embed.proj.weight"
    if key in state_dict and state_dict[key].ndim > 1:
        state_dict[key] = state_dict[key].flatten(1)
