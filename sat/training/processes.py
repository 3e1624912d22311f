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
    backend = "gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device)
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    try:
        deepspeed.init_distributed(dist_backend=backend)
        parallel.initialize(model_parallel_size)
        yield device if device.type == "cpu" else torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    finally:
        mpu.destroy_model_parallel()
        deepspeed.comm.destroy_process_group()


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; the argument is overwritten."""
    dist.all_reduce(values)
    return values
