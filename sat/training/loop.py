"""The training loop: every random draw depends on the seed and the step alone, so that any step can be resumed."""
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
    """Buckets of clips to train on, of held-out ones to check with, and what writes samples of a step, if anything."""

    train: Sequence[Batches]
    valid: Sequence[Batches] = ()
    write_samples: Callable[[int], None] | None = None


class Trainer:
    """One run, from its beginning or from a state that was saved."""

    def __init__(self, args: Arguments, engine: DiffusionEngine, data: Data, state: RunState | None = None):
        self.args, self.engine, self.data = args, engine, data
        self.folder = Path(args.save)
        self.rank, self.size = groups.data_rank_and_size()
        self.draws: tuple = ("train",)
        if state is not None:
            run_state.restore(engine.network, state)
            self.draws += ("anew from", state.step) if args.no_load_rng else ()
        self.deepspeed = start_deepspeed(TrainingStep(engine).train(), args.deepspeed_config)
        trained = {name: p for name, p in engine.network.named_parameters() if p.requires_grad}
        self.average = WeightAverage(trained, args.ema_decay)
        self.step = 0
        if state is not None:
            load_optimizer_state(self.deepspeed, state.optimizer)
            self.average.load(state.average)
            self.step = state.step
        self.order = BatchOrder(list(map(len, data.train)), self.deepspeed.train_micro_batch_size_per_gpu(), args.seed)
        num_timesteps = getattr(engine.loss_fn.sigma_sampler, "num_idx", None)
        self.losses = LossByTimestep(num_timesteps)
        self.valid_losses = LossByTimestep(num_timesteps)

    def run(self) -> None:
        log = Log(self.folder, start_wandb(self.args) if self.args.wandb else None) if ranks.is_main_process() else (
            Log(None))
        since, steps = time.perf_counter(), 0
        try:
            while self.step < self.args.train_iters:
                rate = self.train_step()
                steps += 1
                if self._due(self.args.log_interval):
                    seconds = (time.perf_counter() - since) / steps
                    norm = self.deepspeed.get_global_grad_norm()  # None where DeepSpeed clips without telling
                    log.write(self.step, self.losses.report() | ({} if norm is None else {"grad_norm": float(norm)}) | {
                        "lr": rate, "seconds_per_step": seconds})
                    since, steps = time.perf_counter(), 0
                self._after_step(log)
        finally:
            log.close()

    def train_step(self) -> float:
        """One optimizer step; returns its learning rate. Raises NumericalError where the loss is not finite."""
        args = self.args
        peak = args.deepspeed_config.optimizer.params.lr
        rate = learning_rate(self.step, args.train_iters, peak, args.warmup_iters, args.lr_decay, args.final_lr_share)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        parts = self.deepspeed.gradient_accumulation_steps()
        for part in range(parts):
            # The same parts of the global batch, whether processes share them or one accumulates them.
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
        """A batch by number; sets the random state that it, its noise and its timesteps are drawn with."""
        bucket, index = self.order.batch(number)
        following, announced = self.order.batch(number + self.size)
        self.data.train[bucket].prepare(index)
        self.data.train[following].prepare(announced)
        seed_everywhere(self.args.seed, *self.draws, number)
        return self.data.train[bucket].batch(index)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on held-out clips, the same noise and timesteps each time."""
        batch_size = self.args.eval_batch_size or self.deepspeed.train_micro_batch_size_per_gpu()
        order = BatchOrder(list(map(len, self.data.valid)), batch_size, self.args.seed)
        self.deepspeed.eval()
        with self.average.applied():
            for part in range(self.rank, -(-self.args.eval_iters // self.size) * self.size, self.size):
                seed_everywhere(self.args.seed, "valid", part)
                bucket, index = order.in_order(part)
                _, info = self.deepspeed(self.data.valid[bucket].batch(index))
                if part < self.args.eval_iters:  # every process computes as often, for weights may be divided
                    self.valid_losses.add(info["loss_per_sample"], info["timesteps"])
        self.deepspeed.train()
        return {f"valid_{name}": value for name, value in self.valid_losses.report().items()}

    def save(self) -> None:
        with gathered(self.engine.network):
            network, lora = run_state.weights_of(self.engine.network) if ranks.is_main_process() else ({}, None)
        run_files.save(self.folder, RunState(
            self.step, network, self.average.whole(), optimizer_state(self.deepspeed),
            run_state.settings_of(self.args, ranks.rank_and_count()[1]), lora, tuple(map(len, self.data.train))),
            self.args.keep_checkpoints)

    def _after_step(self, log: Log) -> None:
        if self.data.valid and self._due(self.args.eval_interval):
            log.write(self.step, self.validate())
        if self._due(self.args.save_interval):
            self.save()
            logger.info("saved step %d in %s", self.step, self.folder)
        if self.data.write_samples is not None and self._due(self.args.sample_interval):
            self._write_samples()

    def _write_samples(self) -> None:
        if ranks.is_main_process():
            self.deepspeed.eval()
            with self.average.applied():
                self.data.write_samples(self.step)
            self.deepspeed.train()
        ranks.wait_for_all()

    def _due(self, interval: int | None) -> bool:
        return interval is not None and (self.step % interval == 0 or self.step == self.args.train_iters)

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise NumericalError(f"the loss is {loss.item()} at step {self.step}; lower deepspeed.optimizer.params.lr, "
                                 "or train in a wider dtype")
