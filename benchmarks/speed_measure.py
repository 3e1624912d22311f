"""Measurement of time and floating-point operations, and notes of the results."""
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory_measure import peak_memory, tensor_peak
from common.errors import UserError
from common.files import from_repository, whole_file
from common.machine import processor
from dry_run.meter import FORMULAS

Run = Callable[[], Tensor]
SIDES = ("ours", "diffusers")
# Largest difference over largest value. In bfloat16 another order of summation alone changes results by per cents.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCT_SIZE = {"cpu": 2048}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# Compilers are processes of their own, whose time counts once they have ended.
COMPILATION_CLOCKS = {"wall": time.perf_counter, "cpu": lambda: sum(os.times()[:4])}


class OutputsDiffer(UserError):
    """The user error for two computations that are compared in speed and give different outputs."""


@dataclass(frozen=True)
class Pair:
    """The same work done by this project and by diffusers.

    Where one more run to count operations would take too long, `short` and then `times` times `rest` stand for it.
    """

    ours: Run
    diffusers: Run
    short: "Pair | None" = None
    rest: "Pair | None" = None
    times: int = 0

    def of(self, side: str) -> Run:
        """Return the run of one of SIDES."""
        return getattr(self, side)


@dataclass(frozen=True)
class Timing:
    """Measurements of a Pair: the seconds of every run of both sides, the largest relative difference of their outputs,
    and for each side the bytes that the process grew by in a run, those of its tensors, its floating-point operations,
    and the seconds of its first compiled run if it was compiled."""

    ours: Sequence[float]
    diffusers: Sequence[float]
    difference: float
    memory: Mapping[str, int]
    tensors: Mapping[str, int]
    flops: Mapping[str, float]
    compilation: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median ratio of our time to diffusers' in the same round."""
        return statistics.median(a / b for a, b in zip(self.ours, self.diffusers, strict=True))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def time_pair(pair: Pair, repeats: int, device: torch.device, clock: str = "wall", compiled: bool = False) -> Timing:
    """Run both sides in turns, alternating which goes first. Raises OutputsDiffer if their outputs differ."""
    short = pair.short or pair
    flops = {side: _flops(pair, side) for side in SIDES}
    compilation = _compiled(short, device, clock) if compiled else {}  # the counted runs were not
    memory = {side: peak_memory(short.of(side), device) for side in SIDES}
    tensors = {side: tensor_peak(short.of(side), device) for side in SIDES} if device.type == "cpu" else memory
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    difference = 0.0
    for index in range(repeats):
        outputs = {}
        for side in SIDES if index % 2 == 0 else SIDES[::-1]:
            spent, outputs[side] = timed(pair.of(side), device, CLOCKS[clock])
            seconds[side].append(spent)
        difference = max(difference, relative_difference(outputs["ours"], outputs["diffusers"]))
    return Timing(seconds["ours"], seconds["diffusers"], difference, memory, tensors, flops, compilation)


def _compiled(pair: Pair, device: torch.device, clock: str) -> dict[str, float]:
    """Return the seconds of the first compiled run of each side, with no results of earlier compilations at hand."""
    from torch._inductor import config, utils  # takes a second
    with utils.fresh_cache(), config.patch({"compile_threads": 1} if clock == "cpu" else {}):
        torch.compile(torch.sin)(torch.ones(8, device=device))  # what only a process's first compilation takes
        return {side: timed(pair.of(side), device, COMPILATION_CLOCKS[clock])[0] for side in SIDES}


def _flops(pair: Pair, side: str) -> float:
    """Return the floating-point operations of a side's run."""
    rest = 0.0 if pair.rest is None else pair.times * count_flops(pair.rest.of(side))
    return count_flops((pair.short or pair).of(side)) + rest


def timed(run: Run, device: torch.device, clock: Callable[[], float]) -> tuple[float, Tensor]:
    """Return the seconds that a run takes, and its output."""
    synchronize(device)
    start = clock()
    output = run()
    synchronize(device)
    return clock() - start, output


def relative_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest value. Raises OutputsDiffer above TOLERANCE, or for two shapes."""
    if one.shape != other.shape:
        raise OutputsDiffer(f"outputs have shapes {tuple(one.shape)} and {tuple(other.shape)}; nothing is reported")
    difference = float((one.float() - other.float()).abs().max() / other.float().abs().max())
    limit = TOLERANCE[one.dtype]
    if not difference <= limit:  # also true for NaN
        raise OutputsDiffer(f"outputs differ by {difference:.1e} of the largest value, more than {limit:g}, the limit "
                            f"for rounding in {one.dtype}; nothing is reported")
    return difference


def count_flops(run: Run) -> float:
    """Return a run's floating-point operations in matrix products, convolutions and attention."""
    # A counter hides what is compiled, and a call under it would keep the compiler away from later ones.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return counter.get_total_flops()


def product_peak(device: torch.device, dtype: torch.dtype, clock: str = "wall", repeats: int = 9) -> float:
    """Return the FLOP/s of a square matrix product, the best of several."""
    n = PRODUCT_SIZE.get(device.type, 8192)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b), device, CLOCKS[clock])[0] for _ in range(repeats))


def hardware(device: torch.device) -> str:
    """Return the name of the accelerator, or of the CPU with its threads and instruction set."""
    if device.type != "cpu":
        return processor(device)
    return f"{processor(device)}, {torch.get_num_threads()} thread(s), {torch.backends.cpu.get_cpu_capability()}"




def show(text: str, name: str, save: bool) -> None:
    """Print a table with what it says of its run; `save` keeps it as a note in docs/benchmarks/ of this name."""
    sys.stdout.write(text)
    if save:
        sys.stdout.write(f"{save_note(name, text)}\n")


def save_note(name: str, text: str) -> Path:
    """Write a note to docs/benchmarks/, its name prefixed with today's date; return its path."""
    path = from_repository(f"docs/benchmarks/{date.today()}_{name}.md")
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8")
    return path
