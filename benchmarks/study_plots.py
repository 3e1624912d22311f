"""Draw the plots of studies again from the tables in `docs/studies`, without solving anything.

    python -m benchmarks.study_plots                                  # all that have a table
    python -m benchmarks.study_plots quality_against_cost ablations

A study NAME of `configs/studies` is drawn from NAME.csv; its plots of losses from NAME_PLOT.csv.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "sat"), str(ROOT)]

from benchmarks.studies.grid import Study, read_study
from benchmarks.studies.losses import Losses
from benchmarks.studies.plots import draw, plots_of
from benchmarks.studies.problems import problem_of
from benchmarks.studies.tables import read_table
from common.console import run

CONFIGS, TABLES = ROOT / "configs/studies", ROOT / "docs/studies"


def redraw(study: Study, folder: Path) -> list[Path]:
    """Draw the plots of a study from the tables in `folder`, beside them; return the pictures' paths.

    Raises DataError for a table that is missing or damaged.
    """
    measures = problem_of(study).measures
    table = read_table(folder / f"{study.name}.csv")
    rows = {study.cell_type(**{key: row[key] for key in study.keys}): row for row in table}
    written = []
    for plot in plots_of(study, measures):
        path = folder / f"{study.name}_{plot.name}.png"
        losses = read_table(path.with_suffix(".csv")) if isinstance(plot, Losses) else []
        drawn = draw(plot, study, rows, losses, path)
        written += [drawn.path] if drawn.path else []
    return written


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="studies (default: all of configs/studies that have a table)")
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    for name in parser.parse_args(argv).names or [name for name in known if (TABLES / f"{name}.csv").is_file()]:
        for path in redraw(read_study(CONFIGS / f"{name}.yaml"), TABLES):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(run(main))
