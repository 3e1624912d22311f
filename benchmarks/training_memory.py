"""Memory of training passes of several sizes and ways, beside what train_video.py --plan counts for them.

    python -m benchmarks.training_memory                                    # five sizes, six ways: minutes
    python -m benchmarks.training_memory --layers 6 --width 768 --latents 5 32 32 --clips 2

A pass is a forward and a backward pass of a random transformer, its gradients included, its weights not. Tensors are
the most bytes that its tensors take at a time; resident is the rise of the process's memory, with the gaps between
blocks that malloc keeps: MALLOC_MMAP_THRESHOLD_=65536 takes them away.
"""
import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch

from benchmarks.command_line import count
from benchmarks.markdown import table
from benchmarks.random_models import SIZES
from benchmarks.setting import Setting
from benchmarks.speed_measure import hardware
from benchmarks.training_step import MEMORY_COLUMNS, Memory, Side, drawn
from common.console import run
from common.errors import ConfigError
from configuration.settings import resolve_device

WAYS = {"float32": Side(), "layers computed again": Side(again=True), "LoRA": Side(lora=True),
        "bfloat16": Side(torch.bfloat16), "bfloat16, layers computed again": Side(torch.bfloat16, again=True),
        "bfloat16, LoRA, layers computed again": Side(torch.bfloat16, again=True, lora=True)}


@dataclass(frozen=True)
class Case:
    """A transformer by layers and channels, its latents (T, h, w), and the clips of a pass."""

    layers: int
    width: int
    latents: tuple[int, int, int]
    clips: int

    def __str__(self) -> str:
        return f"{self.layers} x {self.width}, {' x '.join(map(str, self.latents))}, {self.clips}"

    def row(self, way: str, device: torch.device) -> list[str]:
        """Return a row of the table."""
        size, side = SIZES["tiny"].resized(self.layers, self.width, self.latents), WAYS[way]
        setting = Setting(size, device, side.dtype)
        taken = Memory.of(side.built(setting), drawn(setting, self.clips), device)
        return [str(self), way, *taken.cells(side.planned(size, self.clips, device))]


CASES = (Case(2, 128, (3, 8, 8), 2), Case(4, 384, (5, 16, 16), 1), Case(4, 384, (5, 16, 16), 4),
         Case(2, 192, (9, 32, 32), 1), Case(10, 128, (6, 16, 16), 4))


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=count, help="with --width, --latents and --clips: one size in place of five")
    parser.add_argument("--width", type=count, help="channels, a multiple of 64")
    parser.add_argument("--latents", type=count, nargs=3, metavar=("T", "H", "W"), help="even H and W")
    parser.add_argument("--clips", type=count, help="clips of a pass")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--device", help="cpu or an accelerator (default: an accelerator if there is one)")
    return parser.parse_args(argv)


def cases_of(options: argparse.Namespace) -> Sequence[Case]:
    """Return the cases to measure. Raises ConfigError for a size that is given in part or that no model has."""
    given = (options.layers, options.width, options.latents, options.clips)
    if all(value is None for value in given):
        return CASES
    if None in given:
        raise ConfigError("--layers, --width, --latents and --clips make one size; give all four, or none")
    if options.width % 64 or any(side % 2 for side in options.latents[1:]):
        raise ConfigError(f"--width {options.width} has to be a multiple of 64, and H and W of --latents even")
    return (Case(options.layers, options.width, tuple(options.latents), options.clips),)


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    cases, device = cases_of(options), resolve_device(options.device)
    rows = [case.row(way, device) for case in cases for way in options.ways]
    columns = ("layers x channels, latents, clips", "", *MEMORY_COLUMNS)
    sys.stdout.write(f"{hardware(device)}, torch {torch.__version__}\n\n{table(columns, rows)}\n")


if __name__ == "__main__":
    sys.exit(run(main))
