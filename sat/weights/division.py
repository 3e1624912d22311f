"""One transformer shared by several processes: how many, and which part of its whole weights each of them holds.

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


def own_part(weights: Weights, network: nn.Module) -> Weights:
    """Of a whole transformer's weights what this process holds, if `network` is divided among several."""
    cuts = _cuts(network)
    return replace(weights, links={name: _divided(link, cuts[name]) if name in cuts else link
                                   for name, link in weights.links.items()}) if cuts else weights


def _cuts(network: nn.Module) -> dict[str, Cut]:
    """What takes this process's part out of each tensor that is divided, by its name."""
    if groups.model_parallel_size() == 1:
        return {}
    cuts: dict[str, Cut] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, mpu.ColumnParallelLinear):
            cuts |= dict.fromkeys((f"{name}.weight", f"{name}.bias"), _rows(layer.stride))
        elif isinstance(layer, mpu.RowParallelLinear):  # the sum of the parts gets its bias once: all hold it
            cuts[f"{name}.weight"] = _columns
    return cuts


def _rows(stacked: int) -> Cut:
    """Each of the matrices that are stacked in a weight, such as query, key and value, is divided by itself."""
    return lambda whole: cat([_columns(matrix, axis=0) for matrix in whole.chunk(stacked)])


def _columns(whole: Tensor, axis: int = 1) -> Tensor:
    return whole.chunk(groups.model_parallel_size(), axis)[mpu.get_model_parallel_rank()]


def _divided(link: Link, cut: Cut) -> Link:
    return replace(link, merge=lambda *theirs: cut(link.merge(*theirs)))
