"""Ranks of the run's processes: who this process is, what all of them agree on, who reports an error.

Every helper works on one process without torch.distributed as well.
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.errors import UserError


def processes() -> int:
    """How many torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def is_main_process() -> bool:
    """Whether this process writes what all share and speaks to the user."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))) == 0


@contextmanager
def told_once() -> Iterator[None]:
    """For what all processes do alike: of a mistake that each finds, the first alone speaks."""
    try:
        yield
    except UserError as error:
        if is_main_process():
            raise
        raise SystemExit(2) from error


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def rank_and_count() -> tuple[int, int]:
    """This process among all of the run's: (0, 1) where there is one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def any_of(happened: bool) -> bool:
    """Whether it happened in one of the processes."""
    if not dist.is_initialized():
        return happened
    return bool(summed(torch.tensor(float(happened))))


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; the argument is overwritten."""
    dist.all_reduce(values)
    return values
