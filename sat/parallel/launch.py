"""The start of a run's processes, and their end."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from common.swiss_army import mpu
from parallel import groups
from parallel.groups import _check_size, _groups, _initialize_groups, initialize


@contextmanager
def launched(device: torch.device, model_parallel_size: int = 1, context_parallel_size: int = 1,
             sequence_parallel_size: int = 1, guidance_parallel_size: int = 1) -> Iterator[torch.device]:
    """torch.distributed (gloo on the CPU) inside the block, if torchrun started this process.

    All processes begin and end the block together. Yields this process's device: the CPU, or one accelerator each.
    """
    if "RANK" not in os.environ:
        _check_size(model_parallel_size, processes=1)
        _check_size(context_parallel_size, processes=1, name="cp_size")
        _check_size(sequence_parallel_size, processes=1, name="sequence_parallel_size")
        _check_size(guidance_parallel_size, processes=1, name="guidance_parallel_size")
        yield device
        return
    dist.init_process_group("gloo" if device.type == "cpu" else dist.get_default_backend_for_device(device))
    try:
        initialize(model_parallel_size)
        _initialize_groups(context_parallel_size, sequence_parallel_size, guidance_parallel_size)
        dist.barrier()
        yield device if device.type == "cpu" else torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        dist.barrier()
    finally:
        mpu.destroy_model_parallel()
        _groups.clear()
        dist.destroy_process_group()


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
        groups.initialize(model_parallel_size)
        yield device if device.type == "cpu" else torch.device(device.type, int(os.environ["LOCAL_RANK"]))
    finally:
        mpu.destroy_model_parallel()
        deepspeed.comm.destroy_process_group()
