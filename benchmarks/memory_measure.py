"""Measurement of the memory that a call takes: of its tensors, and of the whole process."""
import ctypes
import gc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

ALLOCATED_OR_FREED = "[memory]"  # the profiler's name for these events


def tensor_peak(run: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that new tensors take at most at a time during a call, those that kernels use inside included.

    On a CPU they are what torch's allocator was asked for; an accelerator counts tensors alone in any case.
    """
    if device.type != "cpu":
        return peak_memory(run, device)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == ALLOCATED_OR_FREED]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), default=0)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that a call needs at most beside what was in memory before it, such as weights and inputs.

    On a CPU this is the rise of the process's resident memory (Linux only), with gaps that malloc keeps between blocks.
    """
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.synchronize()
        before = torch.accelerator.memory_allocated()
        torch.accelerator.reset_peak_memory_stats()
        run()
        torch.accelerator.synchronize()
        return torch.accelerator.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process still holds would hide a part of the rise
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Return a memory field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024
