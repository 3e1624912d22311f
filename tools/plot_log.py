"""Plot curves of a training run's log, or of the logs of its stages, one after the other.

    python tools/plot_log.py runs/tiny_vae/log.jsonl --keys loss psnr --out docs/vae_loss.png
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt


def read_series(log: Path, key: str) -> tuple[list[int], list[float]]:
    """Return steps and values of the lines with `key`; the last line counts if a resumed run logged a step again."""
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    series = {line["step"]: line[key] for line in lines if key in line}
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, nargs="+", help="log.jsonl of a run, or of its stages in order")
    parser.add_argument("--keys", nargs="+", default=["loss"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    figure, axes = plt.subplots(figsize=(7, 4))
    for key in options.keys:
        steps, values = read_stages(options.logs, key)
        if not steps:
            sys.stderr.write(f"error: {', '.join(map(str, options.logs))}: no line with {key}\n")
            return 2
        axes.plot(steps, values, label=key, linewidth=1)
    axes.set(xlabel="step", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110, bbox_inches="tight")
    return 0


if __name__ == "__main__":
    sys.exit(main())
