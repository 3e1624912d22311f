"""The transformer's training. Random draws depend only on the seed and the step, so a run can resume at any step."""
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import ranks
from common.errors import NumericalError, UserError
from common.seeds import seed_everywhere
from configuration.settings import Arguments, TrainingSettings
from diffusion_video import DiffusionEngine
from parallel import groups
from training import run_files, run_state
from training.data.batches import Batches, BatchOrder
from training.metrics import Log, LossByTimestep
from training.optimization import TrainingStep, load_optimizer_state, optimizer_state, start_deepspeed
from training.partition import gathered
from training.run_state import RunState
from training.schedule import Course
from training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The buckets of training clips and held-out clips, and the function that writes samples of a step, if any."""

    train: Sequence[Batches]
    valid: Sequence[Batches] = ()
    write_samples: Callable[[int], None] | None = None


class TransformerTrainer(Trainer):
    """A training run of the transformer, with DeepSpeed."""

    def __init__(self, args: Arguments, engine: DiffusionEngine, data: Data, state: RunState | None = None):
        self.engine, self.data = engine, data
        self.settings = run_state.transformer_settings(args, ranks.world_size())
        self.rank, self.size = groups.data_rank_and_size()
        self.draws: tuple = ("train",)
        if state is not None:
            run_state.restore(engine.network, state)
            self.draws += ("anew from", state.step) if args.training.no_load_rng else ()
        self.deepspeed = start_deepspeed(TrainingStep(engine).train(), args.deepspeed_config)
        course = course_of(args.training, args.deepspeed_config.optimizer.params.lr)
        super().__init__(args, course, engine.network, self.deepspeed.optimizer, state)
        # DeepSpeed's own optimizers know the norm; torch's, which it leaves alone in float32 without ZeRO, do not.
        own = isinstance(self.deepspeed.optimizer, torch.optim.Optimizer)
        self.norm: Tensor | None = torch.tensor(0.0) if own else None
        if state is not None:
            load_optimizer_state(self.deepspeed, state.optimizer)
        clips = list(map(len, data.train))
        self.order = BatchOrder(clips, self.deepspeed.train_micro_batch_size_per_gpu(), args.run.seed)
        num_timesteps = getattr(engine.loss_fn.sigma_sampler, "num_idx", None)
        self.losses = LossByTimestep(num_timesteps)
        self.valid_losses = LossByTimestep(num_timesteps)

    def update_weights(self) -> None:
        """Take one optimizer step, on as many batches as are accumulated for it."""
        parts = self.deepspeed.gradient_accumulation_steps()
        for part in range(parts):
            # A global batch has the same parts, whether processes share them or one process accumulates them.
            number = (self.step * parts + part) * self.size + self.rank
            batch = self._batch(number)
            loss, info = self.deepspeed(batch)
            self.check_finite(info["loss"])
            self.losses.add(info["loss_per_sample"], info["timesteps"])
            self.deepspeed.backward(loss)
            if part == parts - 1 and self.norm is not None:
                self.norm = gradient_norm(self.engine.network)
            with named_overflow(self.step + 1):
                self.deepspeed.step()

    def report(self) -> dict[str, float]:
        """Return the mean loss since the last report, by range of timesteps too, and the norm of the gradient."""
        record = self.losses.report()
        norm = self.deepspeed.get_global_grad_norm() if self.norm is None else self.norm
        record |= {} if norm is None else {"grad_norm": float(norm)}  # DeepSpeed may have none
        if skipped := self.deepspeed.skipped_steps:
            record["skipped_steps"] = skipped  # of all steps, since their gradients did not fit into float16
            if skipped == self.step:
                logger.warning("all %d steps so far are skipped, since their gradients do not fit into float16: "
                               "nothing is trained; lower deepspeed.fp16.initial_scale_power, or use bf16", skipped)
        return record

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
        if not self.data.valid:
            return {}
        batch_size = self.args.training.eval_batch_size or self.deepspeed.train_micro_batch_size_per_gpu()
        order = BatchOrder(list(map(len, self.data.valid)), batch_size, self.args.run.seed)
        self.deepspeed.eval()
        with self.average.applied(), of_all_levels(self.engine.loss_fn.sigma_sampler):
            # Weights may be divided, so all ranks run as many forward passes.
            for part in groups.own_share(range(-(-self.args.training.eval_iters // self.size) * self.size)):
                seed_everywhere(self.args.run.seed, "valid", part)
                bucket, index = order.in_order(part)
                _, info = self.deepspeed(self.data.valid[bucket].batch(index))
                if part < self.args.training.eval_iters:
                    self.valid_losses.add(info["loss_per_sample"], info["timesteps"])
        self.deepspeed.train()
        return {f"valid_{name}": value for name, value in self.valid_losses.report().items()}

    def save(self) -> None:
        """Write a checkpoint and the state to resume from; called on all ranks."""
        with gathered(self.engine.network):
            network, lora = run_state.weights_of(self.engine.network) if ranks.is_main_process() else ({}, None)
        run_files.save(self.folder, RunState(
            self.step, network, self.average.whole(), optimizer_state(self.deepspeed),
            self.settings, lora, tuple(map(len, self.data.train)),
            marks=tuple(tuple(bucket.marks) for bucket in self.data.train)),
            self.args.training.keep_checkpoints)

    def after_step(self, log: Log) -> None:
        """Do what is due after a step: validation, a save, samples of the averaged weights."""
        super().after_step(log)
        if self.data.write_samples is not None and self.due(self.args.training.sample_interval):
            self._write_samples(self.data.write_samples)

    def _write_samples(self, write: Callable[[int], None]) -> None:
        self.deepspeed.eval()
        try:
            with self.average.applied():
                write(self.step)
        except (UserError, OSError) as error:
            logger.warning("samples of step %d cannot be made (%s); training goes on", self.step,
                           " ".join(str(error).split())[:160])
        self.deepspeed.train()
        ranks.wait_for_all()


@contextmanager
def of_all_levels(sampler: Any) -> Iterator[None]:
    """Context manager in which each process draws from all noise levels, and not from its share of them."""
    own = getattr(sampler, "uniform_sampling", None)
    if not own:
        yield
        return
    sampler.uniform_sampling = False
    try:
        yield
    finally:
        sampler.uniform_sampling = own


@contextmanager
def named_overflow(step: int) -> Iterator[None]:
    """Context manager that raises NumericalError where DeepSpeed cannot lower float16's scale of the loss any more."""
    try:
        yield
    except Exception as error:  # DeepSpeed raises it bare
        if "loss scale already at minimum" not in str(error):
            raise
        raise NumericalError(f"the gradients do not fit into float16 at step {step}, at the least scale of the loss; "
                             "lower deepspeed.optimizer.params.lr, or use deepspeed.bf16") from error


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the norm of the gradients of all weights, as one vector; zero without any."""
    return torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


def course_of(settings: TrainingSettings, peak: float) -> Course:
    """Return the course that the settings ask for."""
    assert settings.train_iters is not None  # checked before anything is built
    return Course(settings.train_iters, peak, settings.ema_decay,
                  settings.warmup_iters, settings.lr_decay, settings.final_lr_share)
