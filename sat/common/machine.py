"""The machine that computes: names of its processor and accelerator."""
import platform
from pathlib import Path

import torch

CPU_FACTS = Path("/proc/cpuinfo")  # Linux'


def processor(device: torch.device) -> str:
    """Return the name of an accelerator, or of the CPU; of the kind of machine where the system names none."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    if hasattr(module, "get_device_name"):
        return str(module.get_device_name())
    if device.type == "cpu" and CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
