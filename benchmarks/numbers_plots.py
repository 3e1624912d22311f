"""Pictures of how a model learns numbers and relations: errors over the steps of training, and measured against asked.

    python -m benchmarks.numbers_judge model --out runs/judged/1000 args.load=RUN/1000/mp_rank_00_model_states.pt
    python -m benchmarks.numbers_plots runs/judged/1000 runs/judged/2000 --out docs/numbers_curve.png \
        --scatter docs/numbers_scatter.png

The folders' names are the numbers of steps. A folder may lack a grammar. The scatter shows the last folder.
"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.numbers_judge import RESULTS, UNITS, Results, read_results, regression
from benchmarks.scenes_judge import NUMBERS
from common.console import run
from common.errors import ConfigError, DataError
from tools.grammars import GRAMMARS

KIND_OF = {"radius": "radius", "x": "place", "y": "place", "speed": "speed"}  # of what training never shows
COLORS = {"seen": "tab:blue", "never seen": "tab:orange"}


def points(results: Results, number: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return asked and measured values of a number: of clips that training may show, and of values it never shows."""
    kinds = {"seen": (), "never seen": (KIND_OF[number],)}
    return {label: ([getattr(scene, number) for scene, _ in chosen], [one.numbers[number] for _, one in chosen])
            for label, kind in kinds.items()
            for chosen in [[(scene, one) for scene, one in results if scene.unseen == kind]]}


def shares(results: Results) -> dict[str, float]:
    """Return the share of right relations: of combinations that training may show, and of those it never shows."""
    groups = {"seen": [one for scene, one in results if not scene.unseen],
              "never seen": [one for scene, one in results if scene.unseen]}
    return {label: sum(one.right["relation"] for one in found) / len(found) for label, found in groups.items() if found}


def draw_curve(found: Mapping[int, Mapping[str, Results]], out: Path) -> None:
    """Draw the mean absolute error of each number, and the share of right relations, over steps."""
    figure, axes = plt.subplots(1, len(NUMBERS) + 1, figsize=(15, 3), layout="constrained")
    steps = [step for step in sorted(found) if "numbers" in found[step]]
    for axis, number in zip(axes, NUMBERS, strict=False):
        for label, color in COLORS.items():
            errors = [regression(*points(found[step]["numbers"], number)[label])[0] for step in steps]
            axis.plot(steps, errors, "o-", label=label, color=color)
        axis.set(title=f"error of {number}, {UNITS[number]}", xlabel="step", ylim=(0, None))
    right = {step: shares(found[step]["relations"]) for step in sorted(found) if "relations" in found[step]}
    for label, color in COLORS.items():
        axes[-1].plot(list(right), [one[label] for one in right.values()], "o-", label=label, color=color)
    axes[-1].set(title="share of right relations", xlabel="step", ylim=(0, 1))
    axes[0].legend()
    figure.savefig(out, dpi=100)
    plt.close(figure)


def draw_scatter(results: Results, out: Path) -> None:
    """Draw the measured against the asked value of each number."""
    figure, axes = plt.subplots(1, len(NUMBERS), figsize=(13, 3.4), layout="constrained")
    for axis, number in zip(axes, NUMBERS, strict=True):
        for label, (asked, measured) in points(results, number).items():
            axis.plot(asked, measured, ".", label=label, color=COLORS[label], alpha=0.7)
            if label == "seen":
                axis.plot(*[[min(asked), max(asked)]] * 2, color="gray", linewidth=0.8)
        axis.set(title=f"{number}, {UNITS[number]}", xlabel="asked", ylabel="measured")
    axes[0].legend()
    figure.savefig(out, dpi=100)
    plt.close(figure)


def judged_in(folder: Path) -> list[str]:
    """Return the grammars that were judged in a folder. Raises DataError if there is none."""
    names = [name for name in GRAMMARS if (folder / name / RESULTS).is_file()]
    if not names:
        raise DataError(f"there is no {RESULTS} below {folder}; write it with python -m benchmarks.numbers_judge model")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of judged videos, named by steps")
    parser.add_argument("--out", type=Path, required=True, help="picture of the errors over steps")
    parser.add_argument("--scatter", type=Path, help="picture of measured against asked numbers")
    options = parser.parse_args(argv)
    for folder in options.folders:
        if not folder.name.isdigit():
            raise ConfigError(f"{folder}: the name of the folder must be the number of steps")
    found = {int(folder.name): {name: read_results(folder / name / RESULTS) for name in judged_in(folder)}
             for folder in options.folders}
    if options.scatter and "numbers" not in found[max(found)]:
        raise ConfigError(f"--scatter: the folder of {max(found)} steps has no judged captions with numbers")
    draw_curve(found, options.out)
    if options.scatter:
        draw_scatter(found[max(found)]["numbers"], options.scatter)


if __name__ == "__main__":
    sys.exit(run(main))
