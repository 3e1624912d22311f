"""Weights that DeepSpeed's ZeRO 3 divided among the processes: each holds an equal piece of the flat, padded tensor."""
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.ranks import rank_and_count


def own_part(parameter: nn.Parameter) -> Tensor:
    """This process's piece of a weight, where it is in memory; the whole weight unless it is divided."""
    return parameter.ds_tensor if _is_divided(parameter) else parameter.detach()


def part_of(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """The piece of a whole `value` that this process would hold of the weight."""
    if not _is_divided(parameter):
        return value
    size, (rank, count) = parameter.ds_tensor.numel(), rank_and_count()
    flat = torch.nn.functional.pad(value.flatten(), (0, size * count - value.numel()))
    return flat[rank * size:(rank + 1) * size]


def whole(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """The whole value of which each process has a `part`; called by all of them."""
    if not _is_divided(parameter):
        return part
    parts = [torch.empty_like(part) for _ in range(rank_and_count()[1])]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)[:parameter.ds_numel].view(parameter.ds_shape)


def gathered(module: nn.Module) -> AbstractContextManager:
    """The module has whole weights inside the block, to be read; entered by all processes."""
    divided = [parameter for parameter in module.parameters() if _is_divided(parameter)]
    if not divided:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(divided)


def _is_divided(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_tensor")
