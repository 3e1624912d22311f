"""The start of a run's processes, and their end: the same for sampling and training."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.errors import ConfigError
from common.ranks import check_torchrun, launched_by_torchrun, local_rank, lost_processes_named
from parallel import groups
from parallel.groups import GroupSizes

# The variables with the number of copies that a launcher started together, and with the number of this one.
LAUNCHERS = {"srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
             "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
             "mpiexec": ("PMI_SIZE", "PMI_RANK")}


@contextmanager
def launched(device: torch.device, sizes: GroupSizes | None = None, deepspeed: bool = False) -> Iterator[torch.device]:
    """Context manager that runs torch.distributed, if torchrun started this process or `deepspeed` needs it.

    All processes enter and leave together. Yields this process's device: the CPU, or an accelerator of its own. With
    `deepspeed` its communication runs as well. Raises ConfigError if `sizes` do not fit the number of processes, or if
    others are announced that torchrun did not start.
    """
    sizes = sizes or GroupSizes()
    check_torchrun()
    if not deepspeed and not launched_by_torchrun():
        groups.check_sizes(sizes, processes=1)
        yield device
        return
    _start(device)
    try:
        if deepspeed:
            _start_deepspeed(device)
        groups.initialize(sizes.model)
        groups.initialize_groups(sizes)
        with lost_processes_named():
            dist.barrier()
            yield own_device(device)
            dist.barrier()
    finally:
        groups.destroy()
        _stop(deepspeed)


def check_launcher() -> None:
    """Raise ConfigError if a launcher other than torchrun started several copies, which would not train together."""
    check_torchrun()
    if launched_by_torchrun():
        return
    for name, (copies, number) in LAUNCHERS.items():
        if _number(copies) > 1 or _number(number) > 0:
            raise ConfigError(f"{name} started several copies of this program, which know nothing of each other; start "
                              "one torchrun --nproc_per_node N on each node, which starts N processes that train "
                              "together")


def _number(variable: str) -> int:
    """Return the number in a launcher's variable; 0 if there is none."""
    value = os.environ.get(variable, "")
    return int(value) if value.isascii() and value.isdecimal() else 0


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: the CPU, or the accelerator that its local rank names."""
    return device if device.type == "cpu" else torch.device(device.type, local_rank())


def _backend(device: torch.device) -> str:
    return "gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device)


def _start(device: torch.device) -> None:
    # Accelerators' backends do not carry tensors on the CPU, where losses are counted.
    backends = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:{_backend(device)}"
    if launched_by_torchrun():
        dist.init_process_group(backends)
    else:
        dist.init_process_group(backends, store=dist.HashStore(), rank=0, world_size=1)


def _start_deepspeed(device: torch.device) -> None:
    import deepspeed

    # DeepSpeed would compile C++ for collectives that gloo has already.
    deepspeed.ops.__compatible_ops__ = {}
    if device.type == "cpu":  # DeepSpeed supports float16 only where it is fast, but torch computes it on every CPU
        deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
    deepspeed.init_distributed(dist_backend=_backend(device))


def _stop(deepspeed: bool) -> None:
    if deepspeed:
        from deepspeed.comm import destroy_process_group
        destroy_process_group()
    else:
        dist.destroy_process_group()
