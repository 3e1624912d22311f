"""The training loop. Random draws depend only on the seed and the step, so that a run can resume at any step."""
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import ranks
from common.errors import NumericalError
from common.seeds import seed_everywhere
from configuration.settings import Arguments
from diffusion_video import DiffusionEngine
from parallel import groups
from training import run_files, run_state
from training.average import WeightAverage
from training.data.batches import Batches, BatchOrder
from training.metrics import Log, LossByTimestep, start_wandb
from training.optimization import TrainingStep, load_optimizer_state, optimizer_state, start_deepspeed
from training.partition import gathered
from training.run_state import RunState
from training.schedule import learning_rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The buckets of training clips and held-out clips, and the function that writes samples of a step, if any."""

    train: Sequence[Batches]
    valid: Sequence[Batches] = ()
    write_samples: Callable[[int], None] | None = None


class Trainer:
    """A training run, from its beginning or from a saved state."""

    def __init__(self, args: Arguments, engine: DiffusionEngine, data: Data, state: RunState | None = None):
        self.args, self.settings, self.engine, self.data = args, args.training, engine, data
        self.folder = Path(args.training.save)
        self.rank, self.size = groups.data_rank_and_size()
        self.draws: tuple = ("train",)
        if state is not None:
            run_state.restore(engine.network, state)
            self.draws += ("anew from", state.step) if args.training.no_load_rng else ()
        self.deepspeed = start_deepspeed(TrainingStep(engine).train(), args.deepspeed_config)
        trained = {name: p for name, p in engine.network.named_parameters() if p.requires_grad}
        self.average = WeightAverage(trained, args.training.ema_decay)
        self.step = 0
        if state is not None:
            load_optimizer_state(self.deepspeed, state.optimizer)
            self.average.load(state.average)
            self.step = state.step
        clips = list(map(len, data.train))
        self.order = BatchOrder(clips, self.deepspeed.train_micro_batch_size_per_gpu(), args.run.seed)
        num_timesteps = getattr(engine.loss_fn.sigma_sampler, "num_idx", None)
        self.losses = LossByTimestep(num_timesteps)
        self.valid_losses = LossByTimestep(num_timesteps)

    def run(self) -> None:
        log = self._open_log()
        since, steps = time.perf_counter(), 0
        try:
            while self.step < self.settings.train_iters:
                rate = self.train_step()
                steps += 1
                if self._due(self.settings.log_interval):
                    seconds = (time.perf_counter() - since) / steps
                    norm = self.deepspeed.get_global_grad_norm()  # None if DeepSpeed does not report it
                    record = self.losses.report()
                    if norm is not None:
                        record["grad_norm"] = float(norm)
                    log.write(self.step, record | {"lr": rate, "seconds_per_step": seconds})
                    since, steps = time.perf_counter(), 0
                self._after_step(log)
        finally:
            log.close()

    def _open_log(self) -> Log:
        if not ranks.is_main_process():
            return Log(None)
        wandb = start_wandb(self.settings, self.args.config) if self.settings.wandb else None
        return Log(self.folder, wandb)

    def train_step(self) -> float:
        """Take one optimizer step and return its learning rate. Raises NumericalError if the loss is not finite."""
        settings, peak = self.settings, self.args.deepspeed_config.optimizer.params.lr
        rate = learning_rate(self.step, settings.train_iters, peak, settings.warmup_iters, settings.lr_decay,
                             settings.final_lr_share)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        parts = self.deepspeed.gradient_accumulation_steps()
        for part in range(parts):
            # A global batch has the same parts, whether processes share them or one process accumulates them.
            number = (self.step * parts + part) * self.size + self.rank
            batch = self._batch(number)
            loss, info = self.deepspeed(batch)
            self._check(info["loss"])
            self.losses.add(info["loss_per_sample"], info["timesteps"])
            self.deepspeed.backward(loss)
            self.deepspeed.step()
        self.step += 1
        self.average.update(self.step)
        return rate

    def _batch(self, number: int) -> dict:
        """Return batch `number`; sets the random state from which it, its noise and its timesteps are drawn."""
        bucket, index = self.order.batch(number)
        following, announced = self.order.batch(number + self.size)
        self.data.train[bucket].prepare(index)
        self.data.train[following].prepare(announced)
        seed_everywhere(self.args.run.seed, *self.draws, number)
        return self.data.train[bucket].batch(index)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the losses of the averaged weights on held-out clips, with the same noise and timesteps each time."""
        batch_size = self.settings.eval_batch_size or self.deepspeed.train_micro_batch_size_per_gpu()
        order = BatchOrder(list(map(len, self.data.valid)), batch_size, self.args.run.seed)
        self.deepspeed.eval()
        with self.average.applied():
            for part in range(self.rank, -(-self.settings.eval_iters // self.size) * self.size, self.size):
                seed_everywhere(self.args.run.seed, "valid", part)
                bucket, index = order.in_order(part)
                _, info = self.deepspeed(self.data.valid[bucket].batch(index))
                if part < self.settings.eval_iters:  # all ranks run as many forward passes: weights may be divided
                    self.valid_losses.add(info["loss_per_sample"], info["timesteps"])
        self.deepspeed.train()
        return {f"valid_{name}": value for name, value in self.valid_losses.report().items()}

    def save(self) -> None:
        with gathered(self.engine.network):
            network, lora = run_state.weights_of(self.engine.network) if ranks.is_main_process() else ({}, None)
        run_files.save(self.folder, RunState(
            self.step, network, self.average.whole(), optimizer_state(self.deepspeed),
            run_state.settings_of(self.args, ranks.world_size()), lora, tuple(map(len, self.data.train))),
            self.settings.keep_checkpoints)

    def _after_step(self, log: Log) -> None:
        if self.data.valid and self._due(self.settings.eval_interval):
            log.write(self.step, self.validate())
        if self._due(self.settings.save_interval):
            self.save()
            logger.info("saved the checkpoint of step %d in %s", self.step, self.folder)
        if self.data.write_samples is not None and self._due(self.settings.sample_interval):
            self._write_samples()

    def _write_samples(self) -> None:
        if ranks.is_main_process():
            self.deepspeed.eval()
            with self.average.applied():
                self.data.write_samples(self.step)
            self.deepspeed.train()
        ranks.wait_for_all()

    def _due(self, interval: int | None) -> bool:
        return interval is not None and (self.step % interval == 0 or self.step == self.settings.train_iters)

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise NumericalError(f"the loss is {loss.item()} at step {self.step}; lower deepspeed.optimizer.params.lr, "
                                 "or train in a wider dtype")
