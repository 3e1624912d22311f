"""Process groups, SwissArmyTransformer's among them, which also work without torch.distributed.

Ranks are laid out as in SwissArmyTransformer: consecutive ranks share a model-parallel group, and equal positions in
those groups form the data-parallel groups. Consecutive ranks also share a context group, which decodes a video
together, and a sequence group, which divides the tokens of a forward pass. Equal positions in consecutive sequence
groups form a guidance group, which divides the branches of a guided step.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from common.errors import ConfigError
from common.swiss_army import mpu, process_groups

T = TypeVar("T")
Group = tuple[dist.ProcessGroup | None, list[int]]
ALONE: Group = (None, [0])
_groups: dict[str, Group] = {}


@dataclass(frozen=True)
class GroupSizes:
    """The number of processes that share one model, in each of the ways that there are.

    model: they divide the layers of one transformer. context: they decode one video. sequence: they divide the tokens
    of a forward pass. guidance: they divide the branches of a guided step.
    """

    model: int = 1
    context: int = 1
    sequence: int = 1
    guidance: int = 1

    def by_key(self) -> dict[str, int]:
        """Return the sizes by the configuration key of each."""
        return {"model_parallel_size": self.model, "cp_size": self.context, "sequence_parallel_size": self.sequence,
                "guidance_parallel_size": self.guidance}


class SingleProcess:
    """A stand-in for a process group of one, used where torch.distributed has not been started."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def initialize(model_parallel_size: int = 1) -> None:
    """Set SwissArmyTransformer's groups: real ones if torch.distributed is running, else a stand-in of one process.

    May be called again: stand-ins are replaced by real groups once torch.distributed has been started. Raises
    ConfigError if `model_parallel_size` does not divide the processes, or differs from an earlier call.
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
                          f"{mpu.get_model_parallel_world_size()} of an earlier model; use one value in the whole run")


def destroy() -> None:
    """Forget all groups, before torch.distributed ends."""
    mpu.destroy_model_parallel()
    _groups.clear()


def check_sizes(sizes: GroupSizes, processes: int) -> None:
    """Raise ConfigError if groups of these sizes cannot be made of so many processes."""
    for name, size in sizes.by_key().items():
        _check_size(size, processes, name)
    divided = sizes.sequence * sizes.guidance
    if sizes.model > 1 and divided > 1:
        raise ConfigError("model_parallel_size works with neither sequence_parallel_size nor guidance_parallel_size "
                          "above 1; set it to 1")
    _check_size(divided, processes, "sequence_parallel_size x guidance_parallel_size")
    shared = max(sizes.model, divided)
    if max(sizes.context, shared) % min(sizes.context, shared):
        rest = ", ".join(f"{name} {size}" for name, size in sizes.by_key().items() if size > 1)
        raise ConfigError(f"{rest}: cp_size must divide the product of the others, or be a multiple of it")


def _check_size(size: int, processes: int, name: str = "model_parallel_size") -> None:
    if size < 1 or processes % size:
        raise ConfigError(f"{name} {size} does not divide the {processes} process(es) of this run; start a "
                          f"matching number with torchrun, or set {name} to 1")


def initialize_groups(sizes: GroupSizes) -> None:
    """Make this process's groups for decoding, tokens and guidance; torch.distributed must run."""
    check_sizes(sizes, dist.get_world_size())
    _initialize_group("context", sizes.context)
    _initialize_group("sequence", sizes.sequence)
    _initialize_group("guidance", sizes.guidance, stride=sizes.sequence)


def _initialize_group(name: str, size: int, stride: int = 1) -> None:
    """Create groups of `size` ranks each, `stride` apart, and keep this process's."""
    for first in range(dist.get_world_size()):
        if first // stride % size == 0:
            ranks = list(range(first, first + size * stride, stride))
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                _groups[name] = (group, ranks)


def model_parallel_size() -> int:
    """Return how many processes share one copy of the transformer; 1 until `initialize` has made real groups."""
    group = process_groups._MODEL_PARALLEL_GROUP
    return 1 if group is None else group.size()


def context_group() -> Group:
    """Return the group (None for one process) and the ranks of the processes that decode a video together."""
    return _groups.get("context", ALONE)


def sequence_group() -> Group:
    """Return the group and the ranks of the processes that divide the tokens of a forward pass."""
    return _groups.get("sequence", ALONE)


def guidance_group() -> Group:
    """Return the group and the ranks of the processes that divide the branches of a guided step."""
    return _groups.get("guidance", ALONE)


def processes_per_copy() -> int:
    """Return how many processes share one copy of the whole model."""
    return max(model_parallel_size(), len(context_group()[1]), len(sequence_group()[1]) * len(guidance_group()[1]))


def data_rank_and_size() -> tuple[int, int]:
    """Return the index of this process's copy of the model, and the number of copies; (0, 1) on one process."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank() // processes_per_copy(), dist.get_world_size() // processes_per_copy()


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Return the items that this process's copy of the model works on: every n-th of n copies."""
    rank, size = data_rank_and_size()
    return items[rank::size]


def leads_copy() -> bool:
    """Return True on the first rank of each copy of the model, which writes what that copy makes."""
    return not dist.is_initialized() or dist.get_rank() % processes_per_copy() == 0
