"""Logging of a run's metrics to the console, `log.jsonl`, TensorBoard and, on request, Weights & Biases."""
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.errors import ConfigError
from common.ranks import summed
from configuration.settings import TrainingSettings
from configuration.yaml_files import plain

logger = logging.getLogger(__name__)

RANGES = 4


class LossByTimestep:
    """The mean loss over all processes since the last report: of all timesteps, and of each of equal ranges."""

    def __init__(self, num_timesteps: int | None, ranges: int = RANGES):
        self.num_timesteps = num_timesteps
        self.ranges = ranges
        self.sums = torch.zeros(2, ranges, dtype=torch.float64)

    def add(self, losses: Tensor, timesteps: Tensor | None) -> None:
        """Add `losses` (B,) at `timesteps` (B,); without timesteps, all count in the first range."""
        losses = losses.double().cpu()
        which = torch.zeros(len(losses), dtype=torch.long)
        if timesteps is not None and self.num_timesteps:
            which = timesteps.cpu() * self.ranges // self.num_timesteps
        self.sums[0].index_add_(0, which, losses)
        self.sums[1].index_add_(0, which, torch.ones_like(losses))

    def report(self) -> dict[str, float]:
        """Return `loss`, and `loss_<first>_<last>` for every range that has losses, and reset; called on all ranks."""
        total, count = summed(self.sums)
        self.sums = torch.zeros_like(self.sums)
        means = {"loss": (total.sum() / count.sum()).item()}
        if self.num_timesteps:
            edges = [i * self.num_timesteps // self.ranges for i in range(self.ranges + 1)]
            means |= {f"loss_{edges[i]}_{edges[i + 1] - 1}": (total[i] / count[i]).item()
                      for i in range(self.ranges) if count[i]}
        return means


def start_wandb(settings: TrainingSettings, config: DictConfig):
    """Start a Weights & Biases run with this configuration; a resumed training continues the same run.

    Raises ConfigError if the package is missing or `wandb.init` fails.
    """
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("args.wandb needs the package wandb, which is not installed: pip install wandb") from error
    try:
        run_id = hashlib.sha256(str(settings.folder.resolve()).encode()).hexdigest()[:16]
        return wandb.init(project=settings.wandb_project_name, name=settings.experiment_name, dir=str(settings.folder),
                          resume="allow", id=run_id,
                          config=plain(config))
    except wandb.errors.Error as error:
        raise ConfigError(f"args.wandb: {' '.join(str(error).split())[:160]}; run `wandb login`, or set "
                          "WANDB_MODE=offline") from error


class Log:
    """The log of a run, in `folder` and in the `wandb` run if given; with `folder` None it writes nothing.

    Only the main process writes a log.
    """

    def __init__(self, folder: Path | None, wandb=None):
        self.stream: TextIO | None = None
        self.board: Any = None
        self.wandb = wandb
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            folder.mkdir(parents=True, exist_ok=True)
            self.stream = open(folder / "log.jsonl", "a", buffering=1, encoding="utf-8")
            self.board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, record: Mapping[str, float]) -> None:
        if self.stream is None:
            return
        logger.info("step %d  %s", step, "  ".join(f"{k} {v:.4g}" for k, v in record.items()))
        self.stream.write(json.dumps({"step": step, **record}) + "\n")
        for name, value in record.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()
        if self.wandb is not None:
            self.wandb.log(dict(record), step=step)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()
