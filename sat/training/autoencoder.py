"""Training of the autoencoder, in one process, on clips held in memory."""
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common import decibels
from common.errors import CheckpointError
from common.ranks import world_size
from configuration.settings import Arguments
from training import run_files, run_state
from training.adversary import GRADIENT_NORM, Adversary
from training.data.memory_clips import MemoryClips, Stage, stage_at
from training.optimization import build_optimizer
from training.run_state import RunState
from training.schedule import Course
from training.trainer import Trainer
from vae_modules.autoencoder import VideoAutoencodingEngine
from vae_modules.losses import reconstruction_loss
from weights.checkpoint import load_module, read_checkpoint

logger = logging.getLogger(__name__)

WARMUP = 50  # steps
FINAL_SHARE = 0.01  # of the peak learning rate
EMA_DECAY = 0.998
EARLIER_STATE = "state.pt"


class AutoencoderTrainer(Trainer):
    """A training run of the autoencoder. One generator makes all draws, and its state is saved with the run."""

    def __init__(self, args: Arguments, model: VideoAutoencodingEngine, stages: list[Stage], train: MemoryClips,
                 valid: MemoryClips | None = None, state: RunState | None = None):
        self.model, self.stages, self.train, self.valid = model, stages, train, valid
        self.latent_noise = args.model_config.get("latent_noise", 0.0)
        self.generator = torch.Generator().manual_seed(args.run.seed)
        if state is not None:
            load_module(model, state.network, args.training.folder)
            run_state.check_average(model, state)
            if state.generator is None:
                raise CheckpointError(f"the run in {args.training.folder} is not one of the autoencoder's training")
            self.generator.set_state(state.generator)
        optimizer = build_optimizer(args.deepspeed_config.get("optimizer"), model)
        super().__init__(args, course_of(args.deepspeed_config.optimizer.params.lr, stages), model, optimizer, state)
        self.adversary = Adversary.of(args, model, self.course, state)
        if state is not None:
            assert isinstance(state.optimizer, Mapping)
            self.optimizer.load_state_dict(dict(state.optimizer))
        # Held-out clips are always reconstructed after the last step.
        self.eval_interval = args.training.eval_interval or self.course.steps
        self.last: dict[str, Tensor] = {}

    def update_weights(self) -> None:
        """Take one optimizer step on a batch of the stage that the run is in."""
        stage = stage_at(self.stages, self.step)
        video = self.train.draw(stage.batch_size, stage.frames, self.generator).to(self.args.run.device)
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.args.run.bf16):
            loss, terms, frames = reconstruction_loss(self.model, video, self.generator, self.latent_noise)
        if self.adversary is not None:
            loss, added = self.adversary.judged(loss, video, frames, self.step, self.generator)
            terms |= added
        self.check_finite(loss)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = {"loss": loss.detach(), **terms, "grad_norm": norm}
        if self.adversary is not None:
            self.last |= self.adversary.update(video, frames.detach(), self.step)

    def report(self) -> dict[str, float]:
        """Return the loss of the last batch, its terms, the norm of its gradient, and its frames."""
        frames = stage_at(self.stages, self.step - 1).frames
        return {name: value.item() for name, value in self.last.items()} | {"frames": frames}

    def validate(self) -> dict[str, float]:
        """Return the PSNR of the averaged weights on held-out clips; empty without such clips."""
        if self.valid is None:
            return {}
        self.model.eval()
        with self.average.applied():
            found = psnr(self.model, self.valid, self.args.run.device)
        self.model.train()
        return {"psnr": found}

    def save(self) -> None:
        """Write `3d-vae.pt` and the state to resume from."""
        network, _ = run_state.weights_of(self.model)
        settings = run_state.settings_of(self.args, world_size())
        state = RunState(self.step, network, self.average.whole(), self.optimizer.state_dict(), settings,
                         clips=(len(self.train),), marks=(tuple(self.train.marks),),
                         generator=self.generator.get_state(),
                         discriminator=None if self.adversary is None else self.adversary.state())
        run_files.save(self.folder, state, keep=1, kind=run_files.VAE)


def course_of(peak: float, stages: list[Stage]) -> Course:
    """Return the course of all stages."""
    return Course(sum(stage.iters for stage in stages), peak, EMA_DECAY, WARMUP,
                  final_share=FINAL_SHARE)


def warn_short(stages: list[Stage]) -> None:
    """Log a warning for a run that ends before its learning rate has risen to the peak."""
    if (steps := sum(stage.iters for stage in stages)) <= WARMUP:
        logger.warning("data.stages have %d iterations, and the learning rate rises over %d: it never reaches its peak",
                       steps, WARMUP)


@torch.no_grad()
def psnr(model: VideoAutoencodingEngine, clips: MemoryClips, device: torch.device) -> float:
    """Return the mean PSNR of the clips' reconstructions from the posterior's mean, in dB, for values in [0, 255]."""
    total = 0.0
    for number in range(len(clips)):
        video = clips.batch(torch.tensor([number]), 0, clips.frames).to(device)
        frames = model.decode(model.encode(video, sample_posterior=False)).clamp(-1, 1)
        total += decibels.psnr((frames - video).square().mean().item(), 2, decibels.EQUAL)
    return total / len(clips)


def convert_earlier_state(folder: Path, settings: dict) -> None:
    """Make a run of `state.pt`, which earlier versions wrote, one that can be resumed."""
    earlier = folder / EARLIER_STATE
    if earlier.is_file() and not (folder / "latest").exists():
        found = read_checkpoint(earlier)
        lacking = {"step", "model", "average", "optimizer", "generator"} - found.keys()
        if lacking:
            raise CheckpointError(f"{earlier} is no state of the autoencoder's training, it lacks {min(lacking)}; move "
                                  "it away, or choose another args.save")
        state = RunState(found["step"], found["model"], found["average"], found["optimizer"], settings,
                         generator=found["generator"])
        run_files.save(folder, state, keep=1, kind=run_files.VAE)
        earlier.unlink()
