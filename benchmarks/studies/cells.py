"""Solving the cells of a study, one after another or in several processes."""
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from benchmarks.studies.grid import Cell, Study, VariantCell
from benchmarks.studies.problems import problem_of
from configuration.targets import allow_targets

Solved = tuple[Cell | VariantCell, dict[str, float]]


def solve_all(study: Study, cells: Sequence[Cell | VariantCell], processes: int, allowed: Sequence[str] = ()
              ) -> Iterator[Solved]:
    """Yield each cell with its measures as soon as it is solved, in any order.

    Raises the UserError of the first cell that fails; cells that finished earlier have been yielded.
    """
    if processes == 1:
        yield from (solve(study, cell) for cell in cells)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, _prepare, (tuple(allowed),)) as pool:
        waiting = [pool.submit(solve, study, cell) for cell in cells]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def solve(study: Study, cell: Cell | VariantCell) -> Solved:
    """Solve one cell."""
    return cell, problem_of(study).solve(study.part(cell), cell)


def _prepare(allowed: Sequence[str]) -> None:
    """Set up a worker process: one thread, and the modules that may be named as targets."""
    torch.set_num_threads(1)
    allow_targets(*allowed)
