"""Parallel state in one place: SwissArmyTransformer's process groups, made to work without any process group.

Ranks are laid out as SwissArmyTransformer does: neighbours share a model-parallel group, equal positions in those
groups form the data-parallel groups. Neighbours also share a context group, which decodes a video together, and a
sequence group, which divides a pass's tokens; equal positions in neighbouring sequence groups form a guidance group,
which divides the passes of guidance.
"""
import torch.distributed as dist

from common.errors import ConfigError
from common.swiss_army import mpu, process_groups

Group = tuple[dist.ProcessGroup | None, list[int]]
ALONE: Group = (None, [0])
_groups: dict[str, Group] = {}


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
        if process_groups._MODEL_PARALLEL_GROUP is None:
            group = SingleProcess()
            process_groups._MODEL_PARALLEL_GROUP = process_groups._DATA_PARALLEL_GROUP = group
            process_groups._NODE_GROUP = group
        return
    _check_size(model_parallel_size, processes=dist.get_world_size())
    if isinstance(process_groups._MODEL_PARALLEL_GROUP, SingleProcess):
        mpu.destroy_model_parallel()
    if not mpu.model_parallel_is_initialized():
        mpu.initialize_model_parallel(model_parallel_size)
    elif mpu.get_model_parallel_world_size() != model_parallel_size:
        raise ConfigError(f"model_parallel_size {model_parallel_size} differs from the "
                          f"{mpu.get_model_parallel_world_size()} of an earlier model; use one value for the whole run")


def _check_size(size: int, processes: int, name: str = "model_parallel_size") -> None:
    if size < 1 or processes % size:
        raise ConfigError(f"{name} {size} does not divide the {processes} process(es) of this run; start as many with "
                          f"torchrun, or set {name} to 1")


def _initialize_groups(context: int, sequence: int, guidance: int) -> None:
    sizes = {"cp_size": context, "model_parallel_size": model_parallel_size(), "sequence_parallel_size": sequence,
             "guidance_parallel_size": guidance}
    for name, size in sizes.items():
        _check_size(size, dist.get_world_size(), name)
    if model_parallel_size() > 1 and sequence * guidance > 1:
        raise ConfigError("model_parallel_size works with neither sequence_parallel_size nor guidance_parallel_size "
                          "above 1; set it to 1")
    _check_size(sequence * guidance, dist.get_world_size(), "sequence_parallel_size x guidance_parallel_size")
    shared = max(model_parallel_size(), sequence * guidance)
    if max(context, shared) % min(context, shared):
        rest = ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        raise ConfigError(f"{rest}: cp_size must divide what the others make together, or be a multiple of it")
    _initialize_group("context", context)
    _initialize_group("sequence", sequence)
    _initialize_group("guidance", guidance, stride=sequence)


def _initialize_group(name: str, size: int, stride: int = 1) -> None:
    """Groups of `size` processes each, `stride` apart."""
    for first in range(dist.get_world_size()):
        if first // stride % size == 0:
            ranks = list(range(first, first + size * stride, stride))
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                _groups[name] = (group, ranks)


def model_parallel_size() -> int:
    """How many processes share one copy of the transformer; 1 until `initialize` has made real groups."""
    group = process_groups._MODEL_PARALLEL_GROUP
    return 1 if group is None else group.size()


def context_group() -> Group:
    """The processes that decode a video together: their group, None for one alone, and their ranks."""
    return _groups.get("context", ALONE)


def sequence_group() -> Group:
    """The processes that divide the tokens of a pass, likewise."""
    return _groups.get("sequence", ALONE)


def guidance_group() -> Group:
    """The processes that divide the passes of guidance, likewise."""
    return _groups.get("guidance", ALONE)


def copy_size() -> int:
    """How many processes share one copy of the whole model."""
    return max(model_parallel_size(), len(context_group()[1]), len(sequence_group()[1]) * len(guidance_group()[1]))


def data_rank_and_size() -> tuple[int, int]:
    """This process's place among the copies of the model, and the number of copies: (0, 1) on one process."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank() // copy_size(), dist.get_world_size() // copy_size()


def leads_its_copy() -> bool:
    """Whether this process writes what its copy of the model makes."""
    return not dist.is_initialized() or dist.get_rank() % copy_size() == 0
