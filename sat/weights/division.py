"""Transformer shared by several processes: the part of the weights that each process holds.

SwissArmyTransformer divides the layers inside each block: attention by heads, the MLP by its inner channels.
"""
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, cat, nn

from common.swiss_army import mpu
from parallel import groups
from weights.links import Link
from weights.sources import Weights

Cut = Callable[[Tensor], Tensor]


def own_shard(weights: Weights, network: nn.Module) -> Weights:
    """Return the part of a transformer's weights that this process holds; all, if `network` is not divided."""
    cuts = _cuts(network)
    if not cuts:
        return weights
    links = {name: _divided(link, cuts[name]) if name in cuts else link for name, link in weights.links.items()}
    return replace(weights, links=links)


def _cuts(network: nn.Module) -> dict[str, Cut]:
    """Return, for the name of each divided tensor, the function that cuts out this process's part."""
    if groups.model_parallel_size() == 1:
        return {}
    cuts: dict[str, Cut] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, mpu.ColumnParallelLinear):
            cuts |= dict.fromkeys((f"{name}.weight", f"{name}.bias"), _rows(layer.stride))
        elif isinstance(layer, mpu.RowParallelLinear):  # the bias is added once, to the sum: all hold it whole
            cuts[f"{name}.weight"] = _columns
    return cuts


def _rows(stacked: int) -> Cut:
    """Return a cut along rows that divides each of the `stacked` matrices (such as query, key, value) separately."""
    return lambda whole: cat([_columns(matrix, axis=0) for matrix in whole.chunk(stacked)])


def _columns(whole: Tensor, axis: int = 1) -> Tensor:
    return whole.chunk(groups.model_parallel_size(), axis)[mpu.get_model_parallel_rank()]


def _divided(link: Link, cut: Cut) -> Link:
    return replace(link, merge=lambda *theirs: cut(link.merge(*theirs)))
