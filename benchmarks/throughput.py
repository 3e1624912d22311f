"""Videos a minute of many prompts, made by the command line in batches of several sizes and by several processes.

    python -m benchmarks.throughput --save                               # the small model: a few minutes
    python -m benchmarks.throughput --batches 4 --processes 1 2 4 --videos 16 --base configs/tiny_i2v.yaml

Every run makes the same videos by sample_video.py; with several processes torchrun starts them, and they share the
prompts. A run has as many threads as the machine has cores, divided among its processes. Runs alternate. The table has
the median, least and most of videos in a minute from prompts to files, once the model is loaded, and the seconds of the
whole command. --save keeps the table under docs/benchmarks/.
"""
import argparse
import ast
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch

from benchmarks.command_line import count
from benchmarks.command_runs import PROMPT, completed
from benchmarks.markdown import table
from benchmarks.speed_measure import show
from common.console import run
from common.errors import ConfigError
from common.machine import processor

COLUMNS = ("batch", "processes", "threads of each", "videos a minute", "whole command")
LOADING = ("configuration", "model load")  # steps that do not grow with the number of videos


@dataclass
class Way:
    """A batch size and a number of processes, with the seconds of each run: for the videos, and of the command."""

    batch: int
    processes: int
    making: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Threads of each process."""
        return max(1, (os.cpu_count() or 1) // self.processes)

    def make(self, options: argparse.Namespace, work: Path) -> None:
        """Make the videos and note the seconds. Raises RunFailed."""
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(self.processes)]
        words = [*(launcher if self.processes > 1 else []), "sample_video.py", "--base", *options.base,
                 "configs/inference.yaml", "--device", "cpu", "--input-file", str(work / "prompts.txt"),
                 "--output-dir", str(work / f"{self.batch}_{self.processes}_{len(self.making)}"),
                 "--batch-size", str(self.batch), *options.overrides]
        began = time.perf_counter()
        told = completed(words, {"OMP_NUM_THREADS": str(self.threads)})
        self.command.append(time.perf_counter() - began)
        self.making.append(making(told))

    def row(self, videos: int) -> list[str]:
        """Return a row of the table, as COLUMNS."""
        rates = [60 * videos / seconds for seconds in self.making]
        return [f"{self.batch}", f"{self.processes}", f"{self.threads}",
                f"{statistics.median(rates):.3g} ({min(rates):.3g} to {max(rates):.3g})",
                f"{statistics.median(self.command):.3g} s"]


def making(told: str) -> float:
    """Return the seconds that a run reports for its videos, from their prompts to their files."""
    seconds = ast.literal_eval(re.findall(r"seconds: (\{.*?\})", told)[-1])
    return sum(spent for step, spent in seconds.items() if step not in LOADING)


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="key=value for the configuration")
    parser.add_argument("--base", nargs="+", default=["configs/tiny_t2v.yaml"], help="the model's configuration files")
    parser.add_argument("--batches", type=count, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--processes", type=count, nargs="+", default=[1, 2])
    parser.add_argument("--videos", type=count, default=16, help="videos of a run (default: %(default)s)")
    parser.add_argument("--repeats", type=count, default=3, help="rounds over all ways (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="keep the table as a dated note")
    options = parser.parse_args(argv)
    if min(options.batches) * min(options.processes) > options.videos:
        raise ConfigError(f"--videos: {options.videos} do not fill a batch of {min(options.batches)} on each of "
                          f"{min(options.processes)} process(es); give more, or smaller --batches")
    options.words = sys.argv[1:] if argv is None else list(argv)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    every = [Way(batch, processes) for processes in options.processes for batch in options.batches]
    ways = [way for way in every if way.batch * way.processes <= options.videos]
    left_out = [f"{way.batch} by {way.processes}" for way in every if way not in ways]
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "prompts.txt").write_text(f"{PROMPT}\n" * options.videos, encoding="utf-8")
        for turn in range(options.repeats):
            for way in ways if turn % 2 == 0 else ways[::-1]:
                way.make(options, Path(work))
    note = f"\nToo few videos to fill batch by processes: {', '.join(left_out)}.\n" if left_out else ""
    text = (f"# Videos a minute, {date.today()}\n\n`python -m benchmarks.throughput {' '.join(options.words)}`\n\n"
            f"{options.videos} videos; {processor(torch.device('cpu'))}, {os.cpu_count()} cores, "
            f"{torch.backends.cpu.get_cpu_capability()}; Python {platform.python_version()}, torch {torch.__version__}."
            f"\n\n{table(COLUMNS, [way.row(options.videos) for way in ways])}\n{note}")
    show(text, "throughput", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
