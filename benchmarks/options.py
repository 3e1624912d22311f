"""Command-line options shared by the speed benchmarks."""
import argparse

import torch

from benchmarks.random_models import SIZES
from benchmarks.speed_measure import DTYPES
from configuration.model import FASTEST, KERNELS
from configuration.settings import resolve_device


def add_model(parser: argparse.ArgumentParser, size: str | None) -> None:
    """Add the options for the model's size, dtype and device; `size` is the default size."""
    parser.add_argument("--size", choices=SIZES, default=size,
                        help=f"model size (default: {size or '5b on an accelerator, on a CPU 2b from disk'})")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on an accelerator, fp32 on a CPU")
    parser.add_argument("--device", help="cpu or an accelerator (default: an accelerator if there is one)")


def add_speed(parser: argparse.ArgumentParser, compiled: str) -> None:
    """Add --compile, --attention and --save; `compiled` is what --compile means without a value."""
    parser.add_argument("--compile", nargs="?", const=compiled, choices=["whole", "regional", "max"],
                        help="torch.compile the whole transformer, or only its repeated layer, as step caches need, "
                        "or the whole with tuned kernels as graphs of the device "
                        f"(without a value: {compiled})")
    parser.add_argument("--attention", choices=[FASTEST, *KERNELS], help="attention kernel of this project "
                        "(default: the fastest on an accelerator, torch's choice on a CPU)")
    parser.add_argument("--save", action="store_true", help="keep the table as a dated note")


def resolve(options: argparse.Namespace) -> torch.device:
    """Fill in the defaults that depend on the device; return the device."""
    device = resolve_device(options.device)
    options.dtype = options.dtype or ("fp32" if device.type == "cpu" else "bf16")
    if getattr(options, "attention", None) is None:
        options.attention = None if device.type == "cpu" else FASTEST
    return device
