"""The judges of the autoencoder in training, for sharp pictures: a discriminator with its own optimizer, and LPIPS."""
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.errors import CheckpointError, ConfigError, NumericalError
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from data_video import clip_forms_of
from training.data.memory_clips import Stage
from training.run_state import RunState
from training.schedule import Course
from vae_modules.adversarial import Critics, GeneralLPIPSWithDiscriminator, check_side
from vae_modules.autoencoder import VideoAutoencodingEngine
from weights.checkpoint import describe_mismatches

logger = logging.getLogger(__name__)

GRADIENT_NORM = 1.0  # the most that a step's gradient may have
BETAS = (0.5, 0.9)  # of a discriminator's AdamW (Heusel et al. 2017; Esser et al. 2021)
LOSS = "model.first_stage_config.params.loss_config.params"


class Adversary:
    """The discriminator of a run with its own optimizer, and LPIPS, beside the autoencoder that they judge.

    The discriminator's learning rate follows the autoencoder's course, up to `disc_learning_rate`.
    """

    def __init__(self, model: VideoAutoencodingEngine, course: Course, seed: int, device: torch.device):
        self.loss: GeneralLPIPSWithDiscriminator = model.loss
        self.last_layer = model.last_layer
        self.course = replace(course, peak=self.loss.disc_learning_rate or course.peak)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            discriminator = self.loss.build_discriminator()
        self.discriminator = None if discriminator is None else discriminator.to(device)
        lpips = self.loss.build_lpips()
        self.lpips = None if lpips is None else lpips.to(device)
        self.optimizer = None if discriminator is None else torch.optim.AdamW(
            discriminator.parameters(), lr=self.course.peak, betas=BETAS, weight_decay=0.0, fused=True)

    @classmethod
    def of(cls, args: Arguments, model: VideoAutoencodingEngine, course: Course, state: RunState | None
           ) -> "Adversary | None":
        """Return that of a run, at its beginning or at a saved state; None if its loss is of pixels alone."""
        if not isinstance(model.loss, GeneralLPIPSWithDiscriminator):
            return None
        found = cls(model, course, args.run.seed, args.run.device)
        if state is not None:
            found.load(state)
        return found

    def judged(self, loss: Tensor, video: Tensor, frames: Tensor, step: int, generator: torch.Generator
               ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss of the step that follows `step` steps, from that of pixels, and what was added.

        `frames` (B, 3, T, H, W) are the reconstruction of `video`. Raises NumericalError if the discriminator's answer
        is not finite.
        """
        critics = Critics(self.discriminator if step >= self.loss.disc_start else None, self.lpips)
        judged, terms = self.loss.of_autoencoder(loss, video, frames, critics, self.last_layer, generator)
        if torch.isfinite(loss):
            _check_finite(terms.get("adversarial"), step)
        return judged, terms

    def update(self, video: Tensor, frames: Tensor, step: int) -> dict[str, Tensor]:
        """Take the discriminator's step on clips and their reconstructions, and return its terms for the log.

        Nothing happens before step `disc_start`. Raises NumericalError if the loss is not finite.
        """
        if self.discriminator is None or self.optimizer is None or step < self.loss.disc_start:
            return {}
        loss, terms = self.loss.of_discriminator(self.discriminator, video, frames)
        _check_finite(loss, step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.course.learning_rate(step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.discriminator.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return terms | {"disc_grad_norm": norm}

    def state(self) -> dict | None:
        """Return the discriminator's weights and its optimizer's state, for `RunState.discriminator`."""
        if self.discriminator is None or self.optimizer is None:
            return None
        weights = {name: value.to("cpu", copy=True) for name, value in self.discriminator.state_dict().items()}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def load(self, state: RunState) -> None:
        """Restore what `state` returned. Raises CheckpointError if it is not that of this discriminator."""
        if self.discriminator is None or self.optimizer is None:
            return
        saved = state.discriminator or {}
        faults = describe_mismatches(self.discriminator.state_dict(), saved.get("weights") or {})
        if faults or not isinstance(saved.get("optimizer"), dict):
            raise CheckpointError(f"the saved state is not one of this run's discriminator; {faults or 'no optimizer'};"
                                  " start a new run with args.load and another args.save")
        self.discriminator.load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])


def _check_finite(loss: Tensor | None, step: int) -> None:
    if loss is not None and not torch.isfinite(loss):
        raise NumericalError(f"the discriminator's loss is {loss.item()} at step {step}; lower "
                             f"{LOSS}.disc_learning_rate")


def check_adversary(args: Arguments, stages: Sequence[Stage], files: bool = True) -> None:
    """Check what a loss with a discriminator or LPIPS asks for, before clips are read, and log what plays no part.

    `files`: the files of LPIPS as well. Raises ConfigError for clips that are too small, for a decoder whose last layer
    is not trained and for an adversarial loss alone, CheckpointError for files of LPIPS that do not fit.
    """
    with torch.device("meta"):
        params = {**args.model_config.first_stage_config.params, "ckpt_path": None}
        model: nn.Module = instantiate_from_config({**args.model_config.first_stage_config, "params": params})
    loss = model.loss
    if not isinstance(loss, GeneralLPIPSWithDiscriminator):
        return
    check_side(loss, min(clip_forms_of(args.data_config.params)[0].video_size))
    prefixes = tuple(args.model_config.get("not_trainable_prefixes", ()))
    if loss.disc_factor and "first_stage_model.decoder.conv_out.conv.weight".startswith(prefixes):
        raise ConfigError("model.not_trainable_prefixes leaves out the decoder's last layer, decoder.conv_out, whose "
                          f"gradients weigh the adversarial loss; train it, or set {LOSS}.disc_factor to 0")
    if loss.disc_factor and not (loss.l1_weight or loss.l2_weight or loss.edge_weight or loss.has_lpips):
        raise ConfigError(f"{LOSS}: l1_weight, l2_weight and edge_weight are 0 and there is no LPIPS, whose gradients "
                          "weigh the adversarial loss; set one of them above 0")
    _say_what_is_off(loss, sum(stage.iters for stage in stages))
    if files:
        loss.build_lpips()


def _say_what_is_off(loss: GeneralLPIPSWithDiscriminator, steps: int) -> None:
    if loss.disc_factor and loss.disc_start >= steps:
        logger.warning("%s.disc_start is %d and the run has %d steps: the discriminator plays no part in it", LOSS,
                       loss.disc_start, steps)
    if loss.disc_factor and not loss.disc_weight:
        logger.warning("the discriminator is trained and plays no part: %s.disc_weight is 0; disc_factor: 0 leaves it "
                       "out", LOSS)
    if loss.unread_layers:
        logger.warning("%s.disc_num_layers plays no part, as discriminator_config is given; n_layers is its key", LOSS)
    if loss.perceptual_weight and not loss.has_lpips:
        logger.warning("LPIPS plays no part: %s.vgg_weights and lpips_weights name no files; perceptual_weight: 0 says "
                       "that it should not", LOSS)
    if loss.vgg_weights is not None and not loss.perceptual_weight:
        logger.warning("LPIPS plays no part: %s.perceptual_weight is 0", LOSS)
