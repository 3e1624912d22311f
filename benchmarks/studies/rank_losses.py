"""The problem of how much a trained model's loss varies from batch to batch when ranks divide the timesteps."""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from benchmarks.studies.base import Problem
from benchmarks.studies.grid import VariantCell, check_keys
from benchmarks.studies.model_config import merged
from benchmarks.studies.statistics import around, resampled
from common.errors import ConfigError
from common.files import whole_file
from common.seeds import generator_for, seed_everywhere
from sgm.sigma_sampling import DiscreteSampling

RECORD = "losses.json"


@dataclass(frozen=True, kw_only=True)
class LossAcrossRanks(Problem):
    """The training loss of the small model, without training, on as many batches of `rows` clips as a cell has steps.

    A variant has `ranks`, which share a batch evenly, and `explicit`, true if each rank draws timesteps from its own
    interval. Clips and noise are the same in every variant. `deviation` is the standard deviation of the batches'
    losses, with a 95 % interval from resampling the batches; `relative` is the deviation over the mean. `base` lists
    the configurations of the model and its training, `overrides` changes them.
    """

    cell_type: ClassVar = VariantCell
    measures: ClassVar = ("loss", "deviation", "deviation_low", "deviation_high", "relative")
    base: Sequence[str] = ("configs/tiny_t2v.yaml", "configs/tiny_t2v_train.yaml")
    overrides: Sequence[str] = ("args.load=checkpoints/tiny/t2v",)
    rows: int = 16

    def check(self, variant: Mapping, where: str) -> None:
        """Raise ConfigError for an invalid variant."""
        check_keys(variant, ("ranks", "explicit"), where)
        ranks = variant.get("ranks")
        if type(ranks) is not int or ranks < 1 or self.rows % ranks or type(variant.get("explicit")) is not bool:
            raise ConfigError(f"{where} needs explicit (true or false) and ranks, a number that divides the "
                              f"{self.rows} rows of a batch")

    def needs(self, part: Mapping) -> Mapping:
        return merged("--base", *self.base, *self.overrides)

    def solve(self, variant: Mapping, cell: VariantCell) -> dict[str, float]:
        losses = np.array([self._loss(variant, cell, number) for number in range(cell.steps)])
        with whole_file(self._record(cell)) as temporary:
            temporary.write_text(json.dumps(losses.tolist()), encoding="utf-8")
        deviation, mean = float(losses.std(ddof=1)), float(losses.mean())
        low, high = around(deviation, resampled(cell.steps, lambda chosen: losses[chosen].std(ddof=1)))
        return {"loss": mean, "deviation": deviation, "deviation_low": low, "deviation_high": high,
                "relative": deviation / mean}

    def losses(self, cell: VariantCell) -> tuple[list[int], list[float]]:
        """Return the numbers (from 1) and the losses of the batches of a solved cell."""
        losses = json.loads(self._record(cell).read_text(encoding="utf-8"))
        return list(range(1, len(losses) + 1)), losses

    def _record(self, cell: VariantCell) -> Path:
        return self.place(cell) / RECORD

    @torch.no_grad()
    def _loss(self, variant: Mapping, cell: VariantCell, number: int) -> float:
        """Return the loss of one batch."""
        engine, clips, table = trained(tuple(self.base), (*self.overrides, f"args.save={self.place(cell).parent}"))
        engine.loss_fn.sigma_sampler = SharedOut(
            table, variant["ranks"], variant["explicit"], generator_for("timesteps", cell.seed, number))
        seed_everywhere("batch", cell.seed, number)
        return float(engine.shared_step(clips.batch(torch.randint(len(clips), (self.rows,))))[0])


@dataclass(frozen=True)
class SharedOut:
    """A sampler of noise levels that draws what `ranks` processes would draw together, each an equal share.

    With `explicit`, each rank draws from its own interval of the table. All draws come from `generator`.
    """

    table: DiscreteSampling
    ranks: int
    explicit: bool
    generator: torch.Generator

    def __call__(self, n_samples: int, rand: None = None, return_idx: bool = False, generator: None = None):
        bounds = [self.table.interval(rank, self.ranks) if self.explicit else (0, self.table.num_idx)
                  for rank in range(self.ranks)]
        parts = [torch.randint(*bound, (n_samples // self.ranks,), generator=self.generator) for bound in bounds]
        return self.table(n_samples, rand=torch.cat(parts), return_idx=return_idx)


@lru_cache(maxsize=1)
def trained(base: tuple[str, ...], overrides: tuple[str, ...]):
    """Return the engine that training would start from, its cached clips, and its sampler of noise levels."""
    import train_video  # imported late: SwissArmyTransformer takes seconds
    from arguments import get_args
    from training.data.sources import read_sources

    args = get_args(["--base", *base, "args.sample_interval=null", "args.train_iters=1", *overrides])
    train_video.check_settings(args)
    sources = read_sources(args)
    engine = train_video.build_engine(args, fresh=True, text=sources.text).eval()
    return engine, sources.train[0], engine.loss_fn.sigma_sampler
