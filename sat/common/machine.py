"""The machine that computes: its memory, names of its processor and accelerator."""
import ctypes
import os
import platform
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")  # Linux'


def processor(device: torch.device) -> str:
    """Return the name of an accelerator, or of the CPU; of the kind of machine where the system names none."""
    accelerator = device.type != "cpu" and getattr(torch.get_device_module(device), "get_device_name", None)
    if accelerator:
        return str(accelerator())
    if device.type == "cpu" and CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def physical_memory() -> int:
    """Return the bytes of memory of this machine."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _windows_memory()


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX: a length and a share, then seven counts of bytes, of which the first is all memory."""

    _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("bytes", ctypes.c_uint64 * 7)]


def _windows_memory() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.bytes[0]
