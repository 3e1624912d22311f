"""The plan of the autoencoder's training: the memory of a run by part and by phase, before anything is loaded.

Weights, gradients, average and activations are float32. Activations are measured on the meta device (meter.py), those
of the discriminator and of LPIPS among them, on the stage that needs most. Python, its libraries, gaps between blocks
of memory, and the clips that the run holds in CPU memory come on top.
"""
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from diffusion_video import freeze
from dry_run.memory import META, free_memory, weight_bytes
from dry_run.meter import measure, measure_training
from dry_run.report import ROOM, shown_size
from dry_run.training import AVERAGE, BACKWARD, FLOAT, GRADIENTS, MOMENTS, MUON, OPTIMIZER, SAVING, STEP
from vae_modules.adversarial import Critics, GeneralLPIPSWithDiscriminator
from vae_modules.autoencoder import VideoAutoencodingEngine
from vae_modules.losses import reconstruction_loss
from vae_modules.lpips import LPIPS

logger = logging.getLogger(__name__)

AUTOENCODER, DISCRIMINATOR, JUDGE = "autoencoder", "discriminator with its optimizer", "LPIPS"
ITS_STEP, VALIDATION = "discriminator's step", "validation"


@dataclass(frozen=True)
class AutoencoderEstimate:
    """The trained elements, and the bytes of each part and of each phase at its peak."""

    elements: int
    parts: Mapping[str, int]
    phases: Mapping[str, int]

    @property
    def peak(self) -> tuple[str, int]:
        """The phase that needs the most memory, and its bytes."""
        return max(self.phases.items(), key=lambda phase: phase[1])


def estimate_autoencoder_training(args: Arguments, batches: Sequence[tuple[int, ...]]) -> AutoencoderEstimate:
    """Estimate what a run with checked settings needs on batches of clips, each (B, 3, T, H, W)."""
    model, critics = _networks(args)
    device, kind = args.run.device, args.deepspeed_config.optimizer.get("type", "AdamW")
    trained = [p for p in model.parameters() if p.requires_grad]
    elements = sum(p.numel() for p in trained)
    matrices = sum(p.numel() for p in trained if p.ndim == 5) if kind == MUON else 0
    judge = 0 if critics.discriminator is None else weight_bytes(critics.discriminator)
    parts = {AUTOENCODER: weight_bytes(model), GRADIENTS: FLOAT * elements,
             OPTIMIZER: int(MOMENTS.get(kind, 2 * FLOAT) * elements) - FLOAT * matrices, AVERAGE: FLOAT * elements}
    parts |= {DISCRIMINATOR: 3 * judge} if judge else {}
    parts |= {JUDGE: weight_bytes(critics.lpips)} if critics.lpips is not None else {}
    kept = sum(parts.values()) - parts[GRADIENTS]
    phases = {BACKWARD: kept + max(_of_autoencoder(model, critics, shape, device) for shape in batches),
              STEP: kept + parts[GRADIENTS]}
    if critics.discriminator is not None:
        phases[ITS_STEP] = kept + max(_of_discriminator(model.loss, critics.discriminator, shape, device)
                                      for shape in batches)
    if args.training.valid_data:
        phases[VALIDATION] = kept + parts[AVERAGE] + _of_validation(model, args, device)
    if device.type == "cpu":  # where what is saved is copied to: the weights, and in 16 bits their averages
        phases[SAVING] = kept + parts[AUTOENCODER] * 3 // 2 + judge
    return AutoencoderEstimate(elements, parts, phases)


def _networks(args: Arguments) -> tuple[VideoAutoencodingEngine, Critics]:
    config = args.model_config.first_stage_config
    with META:
        model = instantiate_from_config({**config, "params": {**config.params, "ckpt_path": None}}).train()
        freeze(((f"first_stage_model.{name}", p) for name, p in model.named_parameters()),
               args.model_config.get("not_trainable_prefixes", ()))
        if not isinstance(model.loss, GeneralLPIPSWithDiscriminator):
            return model, Critics()
        return model, Critics(model.loss.build_discriminator(), LPIPS() if model.loss.has_lpips else None)


def _of_autoencoder(model: VideoAutoencodingEngine, critics: Critics, shape: tuple[int, ...],
                    device: torch.device) -> int:
    """Return the bytes of a forward and a backward pass, with the clips and the gradients that grow."""
    video, generator = torch.empty(shape, device=META), torch.Generator()

    def loss() -> Tensor:
        pixels, _, frames = reconstruction_loss(model, video, generator)
        if isinstance(model.loss, GeneralLPIPSWithDiscriminator):
            pixels, _ = model.loss.of_autoencoder(pixels, video, frames, critics, model.last_layer, generator)
        return pixels

    return measure_training(loss, model, device)[1] + video.nbytes


def _of_discriminator(loss: GeneralLPIPSWithDiscriminator, discriminator: nn.Module, shape: tuple[int, ...],
                      device: torch.device) -> int:
    """Return the bytes of the discriminator's passes, with clips, reconstructions and gradients."""
    video = torch.empty(shape, device=META)
    discriminator.requires_grad_(True)
    return measure_training(lambda: loss.of_discriminator(discriminator, video, video)[0], discriminator,
                            device)[1] + 2 * video.nbytes


def _of_validation(model: VideoAutoencodingEngine, args: Arguments, device: torch.device) -> int:
    """Return the bytes of the reconstruction of one held-out clip."""
    params = args.data_config.params
    video = torch.empty(1, 3, params.max_num_frames, *params.video_size, device=META)
    model.eval()
    most, _ = measure(lambda: model.decode(model.encode(video, sample_posterior=False)), device)
    return most + video.nbytes


def show_autoencoder_plan(args: Arguments, batches: Sequence[tuple[int, ...]]) -> None:
    """Log the plan of a run whose settings are checked."""
    for line in autoencoder_plan(args, batches):
        logger.info("%s", line)


def autoencoder_plan(args: Arguments, batches: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yield the lines of the plan."""
    needed = estimate_autoencoder_training(args, batches)
    yield (f"training: {needed.elements / 1e6:.2f} M parameters of the autoencoder, in float32; batches of "
           + ", ".join(f"{b} x {t} frames of {h} x {w}" for b, _, t, h, w in batches))
    for what, sizes in (("part", needed.parts), ("phase", needed.phases)):
        yield f"memory by {what}: " + ", ".join(f"{name} {shown_size(size)}" for name, size in sizes.items())
    if args.run.bf16:
        yield "memory: counted in float32; with deepspeed.bf16 activations of convolutions take half as much"
    free, (phase, peak) = free_memory(args.run.device), needed.peak
    yield (f"memory: at most {shown_size(peak)} on {args.run.device} ({phase}), which has {shown_size(free)} free; "
           "Python, its libraries and the clips, which are held in CPU memory, not counted")
    if peak > ROOM * free:
        yield "the run will not fit; take fewer, shorter or smaller clips (data.stages, data.params)"
