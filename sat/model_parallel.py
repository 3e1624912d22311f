"""One transformer shared by several processes: how many, and which part of its whole weights each of them holds.

SwissArmyTransformer divides the layers inside each block: attention by heads, the MLP by its inner channels.
"""
from collections.abc import Callable
from dataclasses import replace

from omegaconf import OmegaConf
from torch import Tensor, cat, nn

import parallel
from arguments import Arguments
from errors import ConfigError
from swiss_army import mpu
from weight_layouts import Link
from weights import Weights

SIZE = "model_parallel_size"
NETWORK = "model.network_config.params"
Cut = Callable[[Tensor], Tensor]


def settle_size(args: Arguments) -> None:
    """Makes one number of the two places that may ask for shared transformers: `args.model_parallel_size`.

    The network's own becomes 1, with which it is built whole before the processes are started, for its tensors to be
    compared with a checkpoint's, and divided among them afterwards. Raises ConfigError where they disagree.
    """
    key = f"{NETWORK}.transformer_args.{SIZE}"
    inner = OmegaConf.select(args.config, key, default=1)
    if not isinstance(inner, int) or inner < 1:
        raise ConfigError(f"{key} is {inner!r}; it must be a whole number, 1 or more")
    size = max(args.model_parallel_size, inner)
    if min(args.model_parallel_size, inner) not in (1, size):
        raise ConfigError(f"args.{SIZE} is {args.model_parallel_size}, but {key} is {inner}; give it once")
    args.model_parallel_size = size
    OmegaConf.update(args.config, f"args.{SIZE}", size, force_add=True)
    if inner > 1:
        OmegaConf.update(args.config, key, 1)


def check_shared(args: Arguments) -> None:
    """Raises ConfigError where the transformer cannot be shared by `args.model_parallel_size` processes."""
    size, heads = args.model_parallel_size, OmegaConf.select(args.config, f"{NETWORK}.num_attention_heads")
    if isinstance(heads, int) and heads % size:
        raise ConfigError(f"args.{SIZE} is {size}, but the transformer's {heads} attention heads do not divide by it")
    if size > 1 and args.load_lora is not None:
        raise ConfigError(f"args.load_lora does not work with args.{SIZE} above 1; merge it into the weights with "
                          "tools/convert_lora.py, or use one process")


def own_part(weights: Weights, network: nn.Module) -> Weights:
    """Of a whole transformer's weights what this process holds, if `network` is divided among several."""
    cuts = _cuts(network)
    return replace(weights, links={name: _divided(link, cuts[name]) if name in cuts else link
                                   for name, link in weights.links.items()}) if cuts else weights


def _cuts(network: nn.Module) -> dict[str, Cut]:
    """What takes this process's part out of each tensor that is divided, by its name."""
    if parallel.model_parallel_size() == 1:
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
    return whole.chunk(parallel.model_parallel_size(), axis)[mpu.get_model_parallel_rank()]


def _divided(link: Link, cut: Cut) -> Link:
    return replace(link, merge=lambda *theirs: cut(link.merge(*theirs)))
