"""The small text-to-video model as a problem: how many of its videos the judge finds as the caption has them."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from sgm.sampling import Sampler
from sgm.sampling.base import StepInfo

from benchmarks.studies.grid import Cell


@dataclass(frozen=True)
class SmallModel:
    """Every `every`-th combination of the world of shapes, one video each, `overrides` to the model's configuration.

    `accuracy` is the share right in all of its attributes, `low` and `high` its 95 % Wilson interval; videos are
    written below `folder`.
    """

    measures = ("passes", "accuracy", "low", "high", "color", "shape", "motion", "background", "videos")
    every: int = 1
    overrides: Sequence[str] = ()
    folder: str = "runs/studies/videos"

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        from benchmarks.shapes_judge import judge_file, wilson_interval
        from benchmarks.small_model import ATTRIBUTES, chosen, make_videos  # SwissArmyTransformer: some seconds

        engine, args = loaded(tuple(self.overrides))
        engine.sampler = counted = Counted(sampler)
        folder = Path(self.folder) / str(cell)
        right = [judge_file(video).matches(combination) for combination, video in
                 make_videos(engine, args, chosen(self.every), cell.seed, folder)]
        shares = {name: sum(r[name] for r in right) / len(right) for name in ATTRIBUTES}
        whole = sum(all(r.values()) for r in right)
        low, high = wilson_interval(whole, len(right))
        return {"passes": counted.passes, "accuracy": whole / len(right), "low": low, "high": high, **shares,
                "videos": len(right)}


@lru_cache(maxsize=1)
def loaded(overrides: tuple[str, ...]):
    """(engine, args) of the small text-to-video model."""
    from benchmarks.small_model import configured, load_engine

    args = configured("t2v", overrides)
    return load_engine(args), args


@dataclass
class Counted:
    """A sampler that knows how many network passes its last run took."""

    sampler: Sampler
    passes: int = field(default=0, init=False)

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)

    def __call__(self, *args, callback: Callable[[StepInfo], None] | None = None, **inputs) -> torch.Tensor:
        def count(step: StepInfo) -> None:
            self.passes = step.passes
            if callback is not None:
                callback(step)

        return self.sampler(*args, callback=count, **inputs)
