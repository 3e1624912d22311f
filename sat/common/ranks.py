"""Ranks of the run's processes: this process's rank, sums and decisions of all ranks, errors reported once.

Every helper also works on one process without torch.distributed. Before torch.distributed has started, rank and world
size are those that torchrun announces.
"""
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.errors import ConfigError, UserError

SECONDS_FOR_OTHERS = 5.0
LOST = "gloo/transport"  # names the place in the messages of gloo
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # variables that it sets, and others may as well


class ProcessLostError(UserError):
    """Another process of the run ended before this one."""


def rank() -> int:
    """Return this process's rank; 0 without torchrun. Raises ConfigError if RANK is no such number."""
    if dist.is_initialized():
        return dist.get_rank()
    return announced("RANK", 0) if launched_by_torchrun() else 0


def world_size() -> int:
    """Return the number of processes; 1 without torchrun. Raises ConfigError if WORLD_SIZE is no such number."""
    if dist.is_initialized():
        return dist.get_world_size()
    return announced("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1


def announced(variable: str, least: int) -> int:
    """Return the number in an environment variable of torchrun. Raises ConfigError if it holds none."""
    value = os.environ[variable]
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise ConfigError(f"the environment variable {variable} is {value[:40]!a}; it must be a whole number, {least} "
                          "or more: correct it, or unset it")
    return int(value)


def is_main_process() -> bool:
    """Return True on rank 0, which alone writes shared files and reports to the user."""
    return rank() == 0


def launched_by_torchrun() -> bool:
    """Return True if torchrun started this process."""
    return all(variable in os.environ for variable in TORCHRUN)


def local_rank() -> int:
    """Return this process's rank on its machine; 0 if nothing says. Raises ConfigError if LOCAL_RANK is no number."""
    return announced("LOCAL_RANK", 0) if "LOCAL_RANK" in os.environ else 0


def check_torchrun() -> None:
    """Raise ConfigError for variables of torchrun that are wrong, or there without the others."""
    if launched_by_torchrun():
        number, processes = announced("RANK", 0), announced("WORLD_SIZE", 1)
        local_rank()
        announced("MASTER_PORT", 1)
        if number >= processes:
            raise ConfigError(f"the environment variable RANK is {number}, and WORLD_SIZE {processes}: ranks count "
                              "from 0; start the processes by torchrun, or unset both")
        return
    if world_size() > 1 or "RANK" in os.environ:
        there, lacking = ([name for name in TORCHRUN if (name in os.environ) is given] for given in (True, False))
        raise ConfigError(f"the environment variable {there[0]} is {os.environ[there[0]][:40]!a}, but {lacking[0]} is "
                          f"not set, so that torchrun did not start this process; unset {there[0]}, or start "
                          "torchrun --nproc_per_node N")


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
    """Context manager for work that every process does: if all raise the same user error, only rank 0 reports it.

    torchrun ends all processes as soon as one has ended with an error. Another rank therefore waits for rank 0, and
    reports its error if it is then still there, because it alone has one.
    """
    try:
        yield
    except (UserError, OSError) as error:
        lost = isinstance(error, ProcessLostError)
        if world_size() > 1 and (lost or not is_main_process()):
            time.sleep(2 * SECONDS_FOR_OTHERS if lost else SECONDS_FOR_OTHERS)
        raise


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Context manager that raises ProcessLostError where a collective fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:  # among them torch.distributed.DistError
        if world_size() > 1 and (isinstance(error, dist.DistError) or LOST in str(error)):
            raise ProcessLostError("another process of this run has ended; see its message") from error
        raise
