"""The training loop that all runs share: it counts steps, sets the learning rate, averages weights, logs and saves."""
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from signal import Signals

import torch
from torch import Tensor, nn

from common import ranks
from common.errors import NumericalError
from configuration.settings import Arguments
from training.average import WeightAverage
from training.continuation import steps_of
from training.metrics import Log, start_wandb
from training.run_state import RunState
from training.schedule import Course
from training.stop_request import StopRequest

logger = logging.getLogger(__name__)


class Trainer(ABC):
    """A training run, from its beginning or from a saved state.

    `step` counts the optimizer steps taken. Whatever a subclass computes, `average` follows the trained parameters of
    `network`, and `optimizer` is given the learning rate of `course`.
    """

    def __init__(self, args: Arguments, course: Course, network: nn.Module, optimizer: torch.optim.Optimizer,
                 state: RunState | None):
        self.args, self.course, self.optimizer = args, course, optimizer
        self.folder = args.training.folder
        self.eval_interval = args.training.eval_interval
        self.step = 0
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.average = WeightAverage(trained, course.ema_decay)
        if state is not None:
            self.average.load(state.average)
            self.step = state.step
            self._log_new_course(steps_of(state.settings))

    @abstractmethod
    def update_weights(self) -> None:
        """Take one step of the optimizer; raises NumericalError if the loss is not finite."""

    @abstractmethod
    def report(self) -> dict[str, float]:
        """Return what the log gets of the steps since the last report; called on all ranks."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return how the averaged weights do on held-out clips; empty without such clips."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint of the averaged weights and the state to resume from; called on all ranks."""

    def run(self) -> None:
        """Train to the end of the course, or until a signal asks to stop: then save, and raise SystemExit."""
        log, times = self._open_log(), []
        try:
            with StopRequest() as request:
                while self.step < self.course.steps:
                    since = time.perf_counter()
                    rate = self.train_step()
                    times.append(time.perf_counter() - since)  # of the step alone, not of validation, samples and saves
                    if self.due(self.args.training.log_interval):
                        log.write(self.step, self.report() | {"lr": rate, "seconds_per_step": sum(times) / len(times)})
                        times.clear()
                    if self.step < self.course.steps and (signal := request.of_any_rank()):
                        self._stop(signal)
                    self.after_step(log)
        finally:
            log.close()

    def _log_new_course(self, steps_before: int) -> None:
        """Log how the learning rate goes on, if the run was to take another number of steps when it was saved."""
        if steps_before != self.course.steps:
            before = replace(self.course, steps=steps_before).learning_rate(self.step - 1)
            logger.info("the run takes %d steps in place of %d, and its learning rate follows the schedule of %d: "
                        "%.3g in step %d, %.3g from there on", self.course.steps, steps_before, self.course.steps,
                        before, self.step, self.course.learning_rate(self.step))

    def train_step(self) -> float:
        """Take one optimizer step and return its learning rate. Raises NumericalError if the loss is not finite."""
        rate = self.course.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.update_weights()
        self.step += 1
        self.average.update(self.step)
        return rate

    def after_step(self, log: Log) -> None:
        """Do what is due after a step: validation, a save."""
        if self.due(self.eval_interval) and (found := self.validate()):
            log.write(self.step, found)
        if self.due(self.args.training.save_interval):
            self._save()

    def _save(self) -> None:
        self.save()
        logger.info("saved the checkpoint of step %d in %s", self.step, self.folder)

    def _stop(self, signal: Signals) -> None:
        """Save, and raise SystemExit with the exit code of a process that the signal ends."""
        self._save()
        logger.info("stopped by %s after step %d of %d; continue with --resume", signal.name, self.step,
                    self.course.steps)
        raise SystemExit(128 + signal)

    def due(self, interval: int | None) -> bool:
        """Return True if something that happens every `interval` steps happens now; all happens after the last step."""
        return interval is not None and (self.step % interval == 0 or self.step == self.course.steps)

    def check_finite(self, loss: Tensor) -> None:
        """Raise NumericalError, naming the step, if the loss is not finite."""
        if not torch.isfinite(loss):
            wider = ", or train in a wider dtype" if self.args.run.fp16 or self.args.run.bf16 else ""
            raise NumericalError(f"the loss is {loss.item()} at step {self.step + 1}; lower "
                                 f"deepspeed.optimizer.params.lr{wider}")

    def _open_log(self) -> Log:
        if not ranks.is_main_process():
            return Log(None)
        wandb = start_wandb(self.args.training, self.args.config) if self.args.training.wandb else None
        return Log(self.folder, wandb)
