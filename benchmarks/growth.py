"""Measurement of how time grows with tokens, frames, batch and steps, beside a prediction from counted operations.

    python -m benchmarks.growth                    # about two minutes on a CPU; writes docs/growth.md and growth.png
    python -m benchmarks.growth --out runs/growth --repeats 5

Each point is the median of several runs. A law is fitted to the points by least squares of the relative error. The
predicted law is the same fit to predicted times. A predicted time is what `--plan` would say: operations of products,
attention and convolutions, bytes in memory and in cache, each at its rate, and a constant time per kernel call.
"""
import argparse
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch

from benchmarks.command_line import count
from benchmarks.small_model import configured, markdown
from benchmarks.speed_measure import CLOCKS, hardware, timed
from common.compression import COGVIDEOX
from common.console import run
from common.files import from_repository, whole_file
from configuration.settings import resolve_device
from configuration.targets import instantiate_from_config
from dry_run.meter import Meter
from dry_run.work import Rates
from inference.pipeline import load_engine

NETWORK = "model.network_config.params."
LARGEST = 12  # latent frames
WIDE = [f"{NETWORK}{key}" for key in ("hidden_size=256", "num_layers=4", "num_attention_heads=4", "latent_height=32",
                                      "latent_width=32", f"num_frames={COGVIDEOX.video_frames(LARGEST)}")]
UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Series:
    """Work of growing size: `work(size)` returns a call and the size to report; the law has these powers of it."""

    name: str
    axis: str
    letter: str
    sizes: Sequence[int]
    work: Callable[[int], tuple[Callable[[], object], float]]
    powers: Sequence[int]


@dataclass(frozen=True)
class Measured:
    """A measured series: for each size the seconds taken, and those predicted from counts (`counted`)."""

    series: Series
    sizes: np.ndarray
    seconds: np.ndarray
    counted: np.ndarray

    def fitted(self) -> np.ndarray:
        """Return the factors of the law fitted to the measured times."""
        return fit(self.sizes, self.seconds, self.series.powers)

    def predicted(self) -> np.ndarray:
        """Return the factors of the law fitted to the predicted times."""
        return fit(self.sizes, self.counted, self.series.powers)


def fit(x: np.ndarray, y: np.ndarray, powers: Sequence[int]) -> np.ndarray:
    """Return non-negative factors of powers of x, by least squares of the relative error to y."""
    columns = np.stack([x**power for power in powers], axis=1) / y[:, None]
    factors, kept = np.zeros(len(powers)), list(range(len(powers)))
    while kept:
        found = np.linalg.lstsq(columns[:, kept], np.ones(len(y)), rcond=None)[0]
        if (found >= 0).all():
            factors[kept] = found
            break
        kept.pop(int(found.argmin()))
    return factors


def law(x: np.ndarray, factors: np.ndarray, powers: Sequence[int]) -> np.ndarray:
    """Return the law's value at x: the sum of factor * x**power."""
    return sum(factor * x**power for factor, power in zip(factors, powers, strict=True))


def measure(series: Series, rates: Rates, repeats: int, device: torch.device, clock: str) -> Measured:
    """Time every size of a series, and predict each from its counts."""
    sizes, seconds, counted = [], [], []
    for size in series.sizes:
        call, told = series.work(size)
        with Meter(device) as meter:
            call()  # which also warms up
        counted.append(rates.seconds(meter.work))
        sizes.append(told)
        seconds.append(statistics.median(timed(call, device, CLOCKS[clock])[0] for _ in range(repeats)))
    return Measured(series, *(np.array(values, dtype=float) for values in (sizes, seconds, counted)))


def all_series(device: torch.device) -> list[Series]:
    """Return the series: a transformer of four layers of width 256 over tokens and over rows, and sampling and decoding
    by the small model."""
    engine = load_engine(configured("t2v", []))
    with torch.device(device):
        network = instantiate_from_config(configured("t2v", WIDE).model_config.network_config).eval()
    text = torch.randn(1, 16, 64, device=device)

    def forward(frames: int, rows: int):
        x, times = torch.randn(rows, frames, 16, 32, 32, device=device), torch.full((1,), 500.0, device=device)
        return lambda: network(x, times, text.expand(rows, -1, -1))

    def sampling(steps: int):
        cond, uncond = {"crossattn": text}, {"crossattn": torch.zeros_like(text)}
        return lambda: engine.sample(cond, uncond, 1, (5, 16, 8, 8), num_steps=steps)

    def decoding(latents: int):
        z = torch.randn(1, 16, latents, 8, 8, device=device)
        return lambda: engine.decode_first_stage(z)

    return [
        Series("transformer, one row", "tokens", "n", (1, 2, 4, 8, LARGEST),
               lambda frames: (forward(frames, 1), frames * 256 + text.shape[1]), (1, 2)),
        Series("decoding 64 x 64 pixels", "frames of video", "f", (1, 3, 5, 9, 13),
               lambda latents: (decoding(latents), COGVIDEOX.video_frames(latents)), (0, 1)),
        Series("transformer, 272 tokens a row", "rows of the batch", "b", (1, 2, 4, 8),
               lambda rows: (forward(1, rows), rows), (0, 1)),
        Series("sampling, guided, 96 tokens", "steps", "s", (2, 4, 8, 16),
               lambda steps: (sampling(steps), steps), (0, 1)),
    ]


def told_law(series: Series, factors: np.ndarray) -> str:
    """Return a law as text, such as "1 ms n + 2 ms n²"."""
    terms = {0: "", 1: f" {series.letter}", 2: f" {series.letter}²"}
    return " + ".join(duration(factor) + terms[power]
                      for factor, power in zip(factors, series.powers, strict=True) if factor)


def duration(seconds: float) -> str:
    """Return a duration in its largest suitable unit."""
    unit = next((unit for unit, least in UNITS.items() if seconds > 0.9995 * least), "ns")
    return f"{seconds / UNITS[unit]:.3g} {unit}"


def row(measured: Measured) -> dict[str, str]:
    """Return a row of the table."""
    series, fitted, predicted = measured.series, measured.fitted(), measured.predicted()
    off = np.abs(law(measured.sizes, fitted, series.powers) / measured.seconds - 1).max()
    last = measured.seconds[-1] / law(measured.sizes, predicted, series.powers)[-1]
    return {"": series.name, "grows with": f"{series.axis} {series.letter}, {measured.sizes[0]:.0f} to "
            f"{measured.sizes[-1]:.0f}", "fitted": told_law(series, fitted), "predicted": told_law(series, predicted),
            "points off the fit by at most": f"{100 * off:.0f} %", "largest, measured / predicted": f"{last:.2f}"}


def plot(results: Sequence[Measured], path: Path) -> None:
    """Write a PNG with a panel for each series."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, measured in zip(figure.subplots(2, 2).flat, results, strict=True):
        series, x = measured.series, np.linspace(0, measured.sizes[-1] * 1.05, 200)
        axes.plot(measured.sizes, measured.seconds, "o", label="measured")
        axes.plot(x, law(x, measured.fitted(), series.powers), label=f"fit: {told_law(series, measured.fitted())}")
        axes.plot(x, law(x, measured.predicted(), series.powers), "--",
                  label=f"predicted: {told_law(series, measured.predicted())}")
        axes.set(title=series.name, xlabel=f"{series.axis} ({series.letter})", ylabel="seconds", xlim=0, ylim=0)
        axes.legend(fontsize=8)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=count, default=3, help="runs of each point (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu",
                        help="cpu: CPU time of this process, for a machine that others use (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=from_repository("docs"), help="folder of growth.md and growth.png")
    options = parser.parse_args(argv)
    device = resolve_device()
    every = all_series(device)
    rates = Rates.measured(device, torch.float32, clock=CLOCKS[options.clock])
    results = [measure(series, rates, options.repeats, device, options.clock) for series in every]
    options.out.mkdir(parents=True, exist_ok=True)
    plot(results, options.out / "growth.png")
    text = (f"# How time grows\n\n`python -m benchmarks.growth --clock {options.clock}`, {date.today()}: "
            f"{hardware(device)}, Python {platform.python_version()}, torch {torch.__version__}, float32. Predicted "
            f"seconds follow from counted operations, bytes and kernel calls at the rates of this machine: "
            f"{rates.products / 1e9:.0f} GFLOP/s in a matrix product, {rates.attention / 1e9:.0f} in attention, "
            f"{rates.convolutions / 1e9:.0f} in a convolution, {rates.bytes / 1e9:.3g} GB/s in memory, "
            f"{rates.cached / 1e9:.3g} in cache, {duration(rates.call)} per kernel call.\n\n"
            f"{markdown([row(m) for m in results])}\n\n"
            "![measured points, fitted and predicted laws](growth.png)\n")
    with whole_file(options.out / "growth.md") as file:
        file.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(run(main))
