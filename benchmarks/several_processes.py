"""Speed-up of several processes that work on one video: a guided step, divided in two ways, and decoding.

    torchrun --nproc-per-node 2 -m benchmarks.several_processes               # on a CPU with two cores
    torchrun --nproc-per-node 4 -m benchmarks.several_processes --size 5b     # four accelerators

Nothing is downloaded: weights are random. Runs alternate between rank 0 alone, while the
other ranks wait, and work divided among all ranks: a step by its tokens or by the branches of guidance (two ranks),
decoding by time. The outputs of the timed runs are compared, and nothing is reported if they differ by more than
rounding.
"""
import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.command_line import count
from benchmarks.options import add_model, resolve
from benchmarks.random_models import SIZES, our_network, our_vae
from benchmarks.setting import Setting
from benchmarks.small_model import markdown
from benchmarks.speed_measure import DTYPES, hardware, relative_difference, synchronize
from common import ranks
from common.console import run
from common.errors import ConfigError
from network.layer_runner import AllLayers, LayerRunner
from network.token_division import DividedLayers
from parallel import groups, launch
from parallel.groups import GroupSizes
from parallel.guidance import SharedBranches

ALONE = "one process"
Ways = Mapping[str, Callable[[], Tensor]]


def step(setting: Setting) -> Ways:
    """Return the ways to compute both branches of a guided step; each returns the prediction (2, T, C, H, W)."""
    network = our_network(setting.size.model(), setting.device, setting.dtype)
    x, text = setting.noise(2, *setting.size.latent), setting.text(2)
    times = torch.full((1,), 500.0, device=setting.device)
    group = groups.sequence_group()
    shared = SharedBranches(*group)

    def with_layers_by(runner: LayerRunner) -> Tensor:
        return network(x, times, text, layer_runner=runner)

    def divided_passes() -> Tensor:
        own = [network(x[i:i + 1], times, text[i:i + 1]) for i in shared.own([0, 1])]
        return torch.cat(shared.gather([0, 1], own, like=x[:1]))

    return {ALONE: lambda: with_layers_by(AllLayers()),
            "tokens divided": lambda: with_layers_by(DividedLayers(*group)),
            "branches divided": divided_passes}


def decode(setting: Setting) -> Ways:
    """Return the ways to decode a latent."""
    vae = our_vae(setting.size.model(), setting.device, setting.dtype)
    z = setting.noise(1, setting.size.latent[1], *setting.size.decoded)

    def with_processes(count: int) -> Tensor:
        vae.cp_size = count
        return vae.decode(z)

    return {ALONE: lambda: with_processes(1), "time divided": lambda: with_processes(dist.get_world_size())}


PARTS: Mapping[str, Callable[[Setting], Ways]] = {"step": step, "decode": decode}


def timed(name: str, way: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor | None]:
    """Run one way; return the wall-clock seconds until every rank is done, and the output (None on an idle rank)."""
    dist.barrier()
    began = time.perf_counter()
    out = way() if name != ALONE or dist.get_rank() == 0 else None
    synchronize(device)
    dist.barrier()
    return time.perf_counter() - began, out


def measure(part: str, setting: Setting, repeats: int) -> list[dict[str, str]]:
    """Return the rows of one part. Raises OutputsDiffer if a way changes the output."""
    seconds: dict[str, list[float]] = {}
    difference: dict[str, float] = {}
    every = PARTS[part](setting)
    for turn in range(repeats + 1):
        expected = None
        for name, way in every.items():
            spent, out = timed(name, way, setting.device)
            expected = out if name == ALONE else expected
            if turn and dist.get_rank() == 0:  # the first turn warms up
                seconds.setdefault(name, []).append(spent)
                difference[name] = max(difference.get(name, 0.0), relative_difference(out, expected))
    alone = seconds.get(ALONE)
    return [{"": f"{part}, {name}", "seconds": f"{statistics.median(spent):.3g} ({min(spent):.3g} to {max(spent):.3g})",
             "speed-up": f"{statistics.median(a / b for a, b in zip(alone, spent, strict=True)):.2f}",
             "outputs differ by": f"{difference[name]:.1e}"} for name, spent in seconds.items()]


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to time (default: all)")
    add_model(parser, size="small")
    parser.add_argument("--repeats", type=count, default=3, help="rounds over all ways (default: %(default)s)")
    options = parser.parse_args(argv)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1:
        raise ConfigError("one process cannot divide the work; start several: "
                          "torchrun --nproc-per-node 2 -m benchmarks.several_processes")
    with launch.launched(resolve(options), GroupSizes(context=processes, sequence=processes)) as device:
        setting = Setting(SIZES[options.size], device, DTYPES[options.dtype])
        rows = [row for part in options.parts for row in measure(part, setting, options.repeats)]
        if ranks.is_main_process():
            sys.stdout.write(f"{processes} processes, each: {hardware(device)}; torch {torch.__version__}\n\n"
                             f"{markdown(rows)}\n")


if __name__ == "__main__":
    sys.exit(run(main))
