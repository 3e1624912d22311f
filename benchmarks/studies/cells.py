"""Solving the cells of a study, one after another or in several processes."""
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.studies.grid import Cell, Study, VariantCell
from benchmarks.studies.outside import faults_outside
from benchmarks.studies.problems import problem_of
from configuration.targets import allow_targets

Solved = tuple[Cell | VariantCell, dict[str, float]]


def solve_all(study: Study, cells: Sequence[Cell | VariantCell], places: Mapping, processes: int,
              allowed: Sequence[str] = ()) -> Iterator[Solved]:
    """Yield each cell with its measures as soon as it is solved, in any order; `places` are the folders of cells.

    Raises the UserError of the first cell that fails; cells that finished earlier have been yielded.
    """
    if processes == 1:
        yield from (solve(study, cell, places[cell]) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, _prepare, (tuple(allowed),)) as pool:
        waiting = [pool.submit(solve, study, cell, places[cell]) for cell in cells]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def solve(study: Study, cell: Cell | VariantCell, place: Path) -> Solved:
    """Solve one cell, whose files go to `place`."""
    problem = problem_of(study)
    problem.places[cell], problem.configs[cell] = place, study.config(cell)
    with faults_outside(str(cell)):
        return cell, problem.solve(study.part(cell), cell)


def _prepare(allowed: Sequence[str]) -> None:
    """Set up a worker process: one thread, and the modules that may be named as targets."""
    torch.set_num_threads(1)
    allow_targets(*allowed)
