"""Comparison of this project with diffusers in time, memory and FLOPs, on the same random weights and inputs.

    python -m benchmarks.speed all                            # on a CPU: a quarter of an hour
    python -m benchmarks.speed decode --repeats 9 --save
    python -m benchmarks.speed transformer --dtype bf16 --layers 4 --width 1024 --tokens 3000
    python -m benchmarks.speed all --size 5b --compile        # on an accelerator

Needs requirements-test.txt beside requirements.txt, and downloads nothing. The sides run alternately, and their outputs
are compared. Seconds are medians, with the minimum and maximum; the ratio is the median over pairs of consecutive runs.
Memory is what a call of each side after its first takes beside the weights, with the gaps that malloc leaves; of it,
tensors is what torch's allocator was asked for at a time. FLOPs are counted for each side, and the share of peak
relates their rate to that of a matrix product, measured in the same run. With --compile both transformers are compiled,
and the last columns are the seconds of each side's first compiled run. diffusers' attention runs by the kernel that
torch chooses, whatever --attention is. --save keeps the table under docs/benchmarks/.
"""
import argparse
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch

from benchmarks.command_line import count, refuse_given
from benchmarks.markdown import table
from benchmarks.options import add_model, add_speed, resolve
from benchmarks.random_models import SIZES
from benchmarks.speed_measure import (
    CLOCKS,
    DTYPES,
    SIDES,
    Timing,
    hardware,
    product_peak,
    show,
    time_pair,
)
from common.console import run

try:
    import diffusers

    from benchmarks.setting import Setting
    from benchmarks.speed_parts import COMPILED, PARTS
except ImportError as error:
    sys.stderr.write(f"error: {error}; run: pip install -r requirements-test.txt\n")
    raise SystemExit(2) from error

COLUMNS = ("part", "ours", "diffusers", "ratio", "difference", "memory, ours", "memory, diffusers", "ratio of memory",
           "tensors, ours", "tensors, diffusers", "ratio of tensors",
           "TFLOP, ours", "TFLOP, diffusers", "share of peak, ours", "share of peak, diffusers", "compilation, ours",
           "compilation, diffusers")


def seconds(values: Sequence[float]) -> str:
    """Return the median, minimum and maximum as text."""
    return f"{statistics.median(values):.3g} s ({min(values):.3g} to {max(values):.3g})"


def sizes(memory: Mapping[str, int]) -> list[str]:
    """Return the memory of both sides as text, and the ratio."""
    return [*(f"{memory[side] / 2**20:.0f} MiB" for side in SIDES), f"{memory['ours'] / memory['diffusers']:.2f}"]


def row(name: str, timing: Timing, peak: float) -> list[str]:
    """Return a row of the table, as COLUMNS."""
    flops = timing.flops
    share = {side: flops[side] / statistics.median(getattr(timing, side)) / peak for side in SIDES}
    return [name, seconds(timing.ours), seconds(timing.diffusers), f"{timing.ratio:.2f}", f"{timing.difference:.1e}",
            *sizes(timing.memory), *sizes(timing.tensors),
            *(f"{flops[side] / 1e12:.3g}" for side in SIDES), *(f"{100 * share[side]:.0f} %" for side in SIDES),
            *(f"{timing.compilation[side]:.3g} s" if timing.compilation else "none" for side in SIDES)]


def measure(name: str, setting: Setting, options: argparse.Namespace, peak: float) -> list[str]:
    """Measure one part; return its row. Raises OutputsDiffer, so that nothing is reported, if the outputs differ."""
    pair = PARTS[name](setting)
    compiles = options.compile is not None and name in COMPILED
    return row(name, time_pair(pair, options.repeats, setting.device, options.clock, compiles), peak)


def heading(options: argparse.Namespace, device: torch.device, peak: float) -> str:
    """Return the note's heading: command, hardware and versions."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}"
    return (f"# Speed beside diffusers, {date.today()}\n\n`python -m benchmarks.speed {' '.join(options.words)}`\n\n"
            f"{hardware(device)}; {versions}; matrix product {peak / 1e12:.3g} TFLOP/s.\n")


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"], help="part of the work to compare")
    add_model(parser, size="small")
    parser.add_argument("--layers", type=count, help="layers of the transformer, in place of the size's")
    parser.add_argument("--width", type=count, help="its channels, a multiple of 64, in place of the size's")
    parser.add_argument("--tokens", type=count, help="about as many tokens of a video, in place of the size's; the "
                        "whole run is of the size's own")
    add_speed(parser, compiled="whole")
    parser.add_argument("--repeats", type=count, default=3,
                        help="rounds, each running both sides (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall",
                        help="cpu: CPU time of this process, for a machine that others use (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.part not in (*COMPILED, "all"):
        refuse_given(parser, options, ("compile", "attention"), f"on {options.part}, which has no transformer")
    options.words = sys.argv[1:] if argv is None else list(argv)
    return options


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    device = resolve(options)
    dtype = DTYPES[options.dtype]
    torch.backends.fp32_precision = "ieee"  # otherwise accelerators round float32 to 10 bits in convolutions
    size, given = SIZES[options.size], {name: getattr(options, name) for name in ("layers", "width", "tokens")}
    if any(given.values()):
        size = size.shaped(**given)
    setting = Setting(size, device, dtype, options.compile, options.attention)
    peak = product_peak(device, dtype, options.clock)
    rows = [measure(part, setting, options, peak) for part in (PARTS if options.part == "all" else [options.part])]
    text = f"{heading(options, device, peak)}\n{table(COLUMNS, rows)}\n"
    other = "".join(f"_{value}_{name}" for name, value in given.items() if value)
    show(text, f"speed_{options.part}_{options.size}{other}_{options.dtype}", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
