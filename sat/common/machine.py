"""The machine that computes: names of its processor and accelerator."""
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
