"""Runner of studies: grids of samplers, schedules, guidances and steps from a YAML file, solved on a test problem.

    python -m benchmarks.study configs/studies/order_of_convergence.yaml
    python -m benchmarks.study configs/studies/quality_against_cost.yaml --processes 4

A study that is started again continues where it stopped, and solves again what is of other code, weights, configuration
or versions than now. `--out` (default runs/studies/NAME) receives results.csv,
plots, and report.html, a single page with all results. See docs/studies.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

from benchmarks.studies.base import Problem
from benchmarks.studies.cells import solve_all
from benchmarks.studies.comparisons import check_comparisons
from benchmarks.studies.grid import Study, read_study
from benchmarks.studies.plots import plots_of
from benchmarks.studies.problems import problem_of
from benchmarks.studies.report import write_report
from benchmarks.studies.results import Results
from common.console import progress, run
from common.errors import ConfigError
from common.files import sole_use
from configuration.targets import allow_targets


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/studies/NAME)")
    parser.add_argument("--processes", type=int, default=1, help="cells solved at the same time, each on one thread")
    parser.add_argument("--most", type=int, help="stop after this many cells")
    parser.add_argument("--allow-targets", nargs="+", default=(), metavar="MODULE",
                        help="your own modules that the study may name as targets, and as problem.kind")
    options = parser.parse_args(argv)
    if options.processes < 1 or (options.most is not None and options.most < 0):
        raise ConfigError("--processes must be 1 or more, and --most 0 or more")
    allow_targets(*options.allow_targets)
    study = read_study(options.study)
    problem = problem_of(study)
    plots_of(study, problem.measures)  # reports a user error before hours of work
    check_comparisons(study, problem)
    folder = options.out or Path("runs/studies") / study.name
    folder.mkdir(parents=True, exist_ok=True)
    with sole_use(folder):
        solve_study(study, problem, folder, options)


def solve_study(study: Study, problem: Problem, folder: Path, options: argparse.Namespace) -> None:
    """Solve the cells of a study that are not solved yet, and write its report."""
    results = Results(folder, study, problem)
    left = [cell for cell in study.cells() if cell not in results.rows][:options.most]
    with progress(total=len(left), desc=study.name, unit="cell", disable=not left) as bar:
        processes = min(options.processes, max(len(left), 1))
        for cell, measured in solve_all(study, left, problem.places, processes, options.allow_targets):
            results.add(cell, measured)
            bar.update()
    report = write_report(study, problem, results, folder)
    sys.stdout.write(f"{len(results.rows)} of {len(study.cells())} cells: {report}\n")


if __name__ == "__main__":
    sys.exit(run(main))
