"""Parallel state in one place: SwissArmyTransformer's process groups, made to work without any process group.

Ranks are laid out as SwissArmyTransformer does: neighbours share a model-parallel group, equal positions in those
groups form the data-parallel groups.
"""
import os
import types

import torch
import torch.distributed as dist
import torch.nn.functional as F

from errors import ConfigError, UserError

# The library logs its start-up at INFO and a missing optional bitsandbytes as a warning; a user's own setting wins.
os.environ.setdefault("SAT_LOGLEVEL", "ERROR")

try:
    import sat.mpu as mpu
    import sat.mpu.initialize as sat_groups
except ImportError as error:
    import sat

    if getattr(sat, "__file__", None) is not None:
        raise
    raise UserError("SwissArmyTransformer is not installed (`import sat` finds only a source folder of that name); "
                    "run: pip install -r requirements.txt") from error


class SingleProcess:
    """Stands for a process group of one where torch.distributed has not been started."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def initialize(model_parallel_size: int = 1) -> None:
    """Give SwissArmyTransformer its groups: real ones where torch.distributed runs, a group of one otherwise.

    May be called again; a stand-in left from before torch.distributed was started is replaced by real groups.
    Raises ConfigError when `model_parallel_size` does not fit the processes, or differs from an earlier call.
    """
    if not dist.is_initialized():
        _check_size(model_parallel_size, processes=1)
        if sat_groups._MODEL_PARALLEL_GROUP is None:
            group = SingleProcess()
            sat_groups._MODEL_PARALLEL_GROUP = sat_groups._DATA_PARALLEL_GROUP = sat_groups._NODE_GROUP = group
        return
    _check_size(model_parallel_size, processes=dist.get_world_size())
    if isinstance(sat_groups._MODEL_PARALLEL_GROUP, SingleProcess):
        mpu.destroy_model_parallel()
    if not mpu.model_parallel_is_initialized():
        mpu.initialize_model_parallel(model_parallel_size)
    elif mpu.get_model_parallel_world_size() != model_parallel_size:
        raise ConfigError(f"model_parallel_size {model_parallel_size} differs from {mpu.get_model_parallel_world_size()}"
                          ", with which this process was started; use one value for the whole run")


def _check_size(model_parallel_size: int, processes: int) -> None:
    if model_parallel_size < 1 or processes % model_parallel_size:
        raise ConfigError(f"model_parallel_size {model_parallel_size} does not divide the {processes} process(es) of "
                          "this run; start as many with torchrun, or set model_parallel_size to 1")


def model_parallel_size() -> int:
    """How many processes share one copy of the transformer; 1 until `initialize` has made real groups."""
    group = sat_groups._MODEL_PARALLEL_GROUP
    return 1 if group is None else group.size()


def data_rank_and_size() -> tuple[int, int]:
    """This process's place among the copies of the model, and the number of copies: (0, 1) on one process."""
    if not dist.is_initialized():
        return 0, 1
    size = model_parallel_size()
    return dist.get_rank() // size, dist.get_world_size() // size


def is_main_process() -> bool:
    """Whether this process writes files and speaks to the user."""
    return not dist.is_initialized() or dist.get_rank() == 0


def use_plain_linears(module: torch.nn.Module) -> None:
    """Let the parallel linear layers below `module` that hold their whole matrix compute a plain linear layer.

    The same numbers without autograd functions around a collective that does nothing, with the bias inside the
    matrix product, and in a form that torch.compile can follow. Layers divided among processes stay as they are.
    """
    for layer in module.modules():
        whole_rows = isinstance(layer, mpu.ColumnParallelLinear) and layer.output_size_per_partition == layer.output_size
        whole_columns = isinstance(layer, mpu.RowParallelLinear) and layer.input_size_per_partition == layer.input_size
        if whole_rows or whole_columns:
            layer.forward = types.MethodType(_plain_linear, layer)


def _plain_linear(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, self.weight, self.bias)
