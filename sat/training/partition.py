"""Access to weights that ZeRO 3 divides among processes: each holds an equal part of the flat, padded tensor."""
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.ranks import rank, world_size


def own_part(parameter: nn.Parameter) -> Tensor:
    """Return this process's part of a weight, sharing its memory; the whole weight if it is not divided."""
    return _divided(parameter).ds_tensor if _is_divided(parameter) else parameter.detach()


def part_of(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """Return the part of a whole `value` for `parameter` that this process holds; all of it if it is not divided."""
    if not _is_divided(parameter):
        return value
    size, count = _divided(parameter).ds_tensor.numel(), world_size()
    flat = torch.nn.functional.pad(value.flatten(), (0, size * count - value.numel()))
    start = rank() * size
    return flat[start:start + size]


def whole(parameter: nn.Parameter, part: Tensor) -> Tensor:
    """Return the whole value of which each process holds a `part`; called on all ranks."""
    if not _is_divided(parameter):
        return part
    parts = [torch.empty_like(part) for _ in range(world_size())]
    dist.all_gather(parts, part.contiguous())
    divided = _divided(parameter)
    return torch.cat(parts)[:divided.ds_numel].view(divided.ds_shape)


def gathered(module: nn.Module) -> AbstractContextManager:
    """Context manager that gives the module whole weights, for reading; entered on all ranks."""
    divided = [parameter for parameter in module.parameters() if _is_divided(parameter)]
    if not divided:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(divided)


def _divided(parameter: nn.Parameter) -> Any:
    """Return the parameter as DeepSpeed leaves it when it divides weights, with attributes `ds_...` of its own."""
    return parameter


def _is_divided(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_tensor")
