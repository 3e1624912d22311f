"""Options that several benchmarks of speed take."""
import argparse

import torch

from benchmarks.random_models import SIZES
from benchmarks.speed_measure import DTYPES
from configuration.model import FASTEST, KERNELS
from configuration.settings import resolve_device


def add_model(parser: argparse.ArgumentParser, size: str) -> None:
    """Which model, where, and in what precision."""
    parser.add_argument("--size", choices=SIZES, default=size)
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on an accelerator, fp32 on a CPU")
    parser.add_argument("--device", help="cpu or an accelerator (default: an accelerator if there is one)")


def add_speed(parser: argparse.ArgumentParser, compiled: str) -> None:
    """How it computes, and whether the result is kept; `compiled`: what --compile means by itself."""
    parser.add_argument("--compile", nargs="?", const=compiled, choices=["whole", "regional"],
                        help="torch.compile the transformer whole, or its repeated layer (step caches need that; "
                        f"default: {compiled})")
    parser.add_argument("--attention", choices=[FASTEST, *KERNELS], help="by which kernel this project's runs "
                        "(default: the fastest on an accelerator; a CPU has one)")
    parser.add_argument("--save", action="store_true", help="keep the table as a dated note")


def resolve(options: argparse.Namespace) -> torch.device:
    """Puts what was left out in its place; returns the device."""
    device = resolve_device(options.device)
    options.dtype = options.dtype or ("fp32" if device.type == "cpu" else "bf16")
    if getattr(options, "attention", None) is None:
        options.attention = None if device.type == "cpu" else FASTEST
    return device
