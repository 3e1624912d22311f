"""Plot curves of a training run's log, or of the logs of its stages, one after the other.

    python tools/plot_log.py runs/tiny_vae/log.jsonl --keys loss psnr --out docs/vae_loss.png
"""
import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from common.console import run
from common.errors import DataError
from common.files import whole_file
from common.text import lines, read_text


def read_log(log: Path) -> list[Mapping]:
    """Return the lines of a log. The last one may be cut, as while the run goes on. Raises DataError for any other."""
    given, found = lines(read_text(log)), []
    for number, line in enumerate(given, 1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == len(given):
                break
            raise DataError(f"{log}, line {number}: not a line of a log ({error}); give log.jsonl of a run") from error
        if not isinstance(entry, Mapping) or not isinstance(entry.get("step"), int):
            raise DataError(f"{log}, line {number}: it has no step; give log.jsonl of a run")
        found.append(entry)
    return found


def read_series(log: Path, key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of the lines with `key`; the last line counts if a resumed run logged a step again.

    A value that was not finite, which the log has as null, is left out. Raises DataError for a value that is no number.
    """
    series = {line["step"]: line[key] for line in read_log(log) if line.get(key) is not None}
    for step, value in series.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{log}: {key} of step {step} is {value!r}, not a number; give another key")
    return sorted(series), [series[step] for step in sorted(series)]


def read_stages(logs: Sequence[Path], key: str) -> tuple[list[int], list[float]]:
    """Return the series of `key` in logs of stages, whose steps are counted on from one to the next."""
    steps: list[int] = []
    values: list[float] = []
    for log in logs:
        before = steps[-1] if steps else 0
        of_stage, found = read_series(log, key)
        steps += [before + step for step in of_stage]
        values += found
    return steps, values


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+", help="log.jsonl of a run, or of its stages in order")
    parser.add_argument("--keys", nargs="+", default=["loss"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    if options.out.suffix.lower() != ".png" or options.out.is_dir():
        raise DataError(f"{options.out}: curves are written as PNG; give a name that ends with .png")
    figure, axes = plt.subplots(figsize=(7, 4))
    for key in options.keys:
        steps, values = read_stages(options.logs, key)
        if not steps:
            raise DataError(f"{', '.join(map(str, options.logs))}: no line with {key}")
        axes.plot(steps, values, label=key, linewidth=1)
    axes.set(xlabel="step", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False)
    with whole_file(options.out) as partial:
        figure.savefig(partial, dpi=110, bbox_inches="tight", format="png")


if __name__ == "__main__":
    sys.exit(run(main))
