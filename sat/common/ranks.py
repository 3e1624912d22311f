"""Ranks of the run's processes: this process's rank, sums and decisions of all ranks, errors reported once.

Every helper also works on one process without torch.distributed. Before torch.distributed has started, rank and world
size are those that torchrun announces.
"""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.errors import UserError


def rank() -> int:
    """Return this process's rank; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Return True on rank 0, which alone writes shared files and reports to the user."""
    return rank() == 0


def launched_by_torchrun() -> bool:
    """Return True if torchrun started this process."""
    return "RANK" in os.environ


def wait_for_all() -> None:
    """Return when every rank has called this."""
    if dist.is_initialized():
        dist.barrier()


def any_of(happened: bool) -> bool:
    """Return True if `happened` is true on any rank."""
    if not dist.is_initialized():
        return happened
    return bool(summed(torch.tensor(float(happened))))


def summed(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all ranks; overwrites the argument."""
    dist.all_reduce(values)
    return values


@contextmanager
def report_once() -> Iterator[None]:
    """Context manager for work that every process repeats: if all raise the same UserError, only rank 0 reports it."""
    try:
        yield
    except UserError as error:
        if is_main_process():
            raise
        raise SystemExit(2) from error
