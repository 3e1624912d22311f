"""The processes of a training run: one without a launcher, or as many as torchrun started."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

import parallel
from swiss_army import mpu


@contextmanager
def started(device: torch.device, model_parallel_size: int = 1) -> Iterator[torch.device]:
    """torch.distributed (gloo on the CPU) and DeepSpeed's communication over it run inside the block.

    Yields this process's device: the CPU, or one accelerator each.
    """
    import deepspeed

    # Nothing known as compilable: DeepSpeed would build C++ for collectives that gloo does already.
    deepspeed.ops.__compatible_ops__ = {}
    if device.type == "cpu":  # it takes float16 to be supported where it is fast; torch computes it on every CPU
        deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True
    backend = "gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device)
    # Accelerators' backends carry nothing that lies on the CPU, where losses are counted.
    backends = backend if device.type == "cpu" else f"cpu:gloo,{device.type}:{backend}"
    if "RANK" in os.environ:
        dist.init_process_group(backends)
    else:
        dist.init_process_group(backends, store=dist.HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    try:
        deepspeed.init_distributed(dist_backend=backend)
        parallel.initialize(model_parallel_size)
        yield device if device.type == "cpu" else torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    finally:
        mpu.destroy_model_parallel()
        deepspeed.comm.destroy_process_group()


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
