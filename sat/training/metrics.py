"""Logging of a run's metrics to the console, `log.jsonl`, TensorBoard and, on request, Weights & Biases."""
import errno
import hashlib
import importlib
import json
import logging
import math
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.errors import ConfigError
from common.files import whole_file
from common.ranks import summed
from common.text import read_text
from configuration.settings import TrainingSettings
from configuration.yaml_files import plain
from training.saved_steps import LOG, latest_step

logger = logging.getLogger(__name__)

RANGES = 4
RUN_ID = "wandb_run_id"


class LossByTimestep:
    """The mean loss over all processes since the last report: of all timesteps, and of each of equal ranges."""

    def __init__(self, num_timesteps: int | None, ranges: int = RANGES):
        self.num_timesteps = num_timesteps
        self.ranges = ranges
        self.sums = torch.zeros(2, ranges, dtype=torch.float64)

    def add(self, losses: Tensor, timesteps: Tensor | None) -> None:
        """Add `losses` (B,) at `timesteps` (B,); without timesteps, all count in the first range."""
        losses = losses.cpu().double()  # not every device has float64
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


def check_wandb() -> None:
    """Raise ConfigError if the package wandb is missing."""
    try:
        importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError("args.wandb needs the package wandb, which is not installed: pip install wandb") from error


def start_wandb(settings: TrainingSettings, config: DictConfig):
    """Start a Weights & Biases run with this configuration; a resumed training continues the same run.

    Raises ConfigError if `wandb.init` fails.
    """
    import wandb

    try:
        return wandb.init(project=settings.wandb_project_name, name=settings.experiment_name, dir=str(settings.folder),
                          resume="allow", id=_run_id(settings.folder), config=plain(config))
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise ConfigError(f"args.wandb: {' '.join(str(error).split())[:160]}; run `wandb login`, or set "
                          "WANDB_MODE=offline") from error


def _run_id(folder: Path) -> str:
    """Return the name by which Weights & Biases knows a run, which the run folder keeps; a new run has a new one."""
    file = folder / RUN_ID
    if latest_step(folder) is None:
        with whole_file(file) as unfinished:
            unfinished.write_text(secrets.token_hex(8), encoding="utf-8")
    if file.is_file():
        return read_text(file).strip()
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # of a run that an earlier version began


class Log:
    """The log of a run, in `folder` and in the `wandb` run if given; with `folder` None it writes nothing.

    Only the main process writes a log. One that cannot be written, as on a full disk, is reported once, and training
    goes on.
    """

    def __init__(self, folder: Path | None, wandb=None):
        self.parts: dict[str, Any] = {}
        self.reported: set[str] = set()
        if folder is not None:
            self.parts[LOG] = JsonLines(folder / LOG)
            self.parts["tensorboard"] = Board(folder / "tensorboard")
        if wandb is not None:
            self.parts["Weights & Biases"] = WandbLog(wandb)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        if self.parts:
            logger.info("step %d  %s", step, "  ".join(f"{k} {v:.4g}" for k, v in record.items()))
        for name, part in self.parts.items():
            self._try(name, partial(part.write, step, record))

    def close(self) -> None:
        for name, part in self.parts.items():
            self._try(name, part.close)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a log's library raises, the training is worth more than its log
            if name not in self.reported:
                logger.warning("%s cannot be written (%s); training goes on", name, " ".join(str(error).split())[:160])
            self.reported.add(name)


class JsonLines:
    """A file of one JSON object per line, of which each is whole or absent; what is not finite is null."""

    def __init__(self, path: Path):
        self.stream = open(path, "ab", buffering=0)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        # JSON has no infinity, as the norm of gradients is where float16 overflows, and no NaN.
        values = {name: value if math.isfinite(value) else None for name, value in record.items()}
        line, end = (json.dumps({"step": step, **values}) + "\n").encode(), self.stream.seek(0, os.SEEK_END)
        written = 0
        try:
            written = self.stream.write(line)
        finally:
            if written < len(line):
                self.stream.truncate(end)
        if written < len(line):  # the system writes what still has room
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self.stream.close()


class Board:
    """A log for TensorBoard, which ends with the first error: the library's writer does not recover."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.hook = threading.excepthook
        threading.excepthook = self._of_thread
        self.writer = SummaryWriter(str(folder))

    def write(self, step: int, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        threading.excepthook = self.hook
        self.writer.close()

    def _of_thread(self, args: threading.ExceptHookArgs) -> None:
        """Leave an error of the writer's thread, which `write` raises as well, to `write`."""
        if type(args.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            self.hook(args)


class WandbLog:
    """A log in a run of Weights & Biases."""

    def __init__(self, run: Any):
        self.run = run

    def write(self, step: int, record: Mapping[str, float]) -> None:
        self.run.log(dict(record), step=step)

    def close(self) -> None:
        self.run.finish()
