"""Runs that start from clips: SDEdit (`args.strength`), and inversion to noise and back (`args.invert`)."""
from collections.abc import Mapping, Sequence

import torch

from common import console
from common.errors import ConfigError
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from inference.jobs import Job
from sgm.sampling import FromClip, Start, undoes_inversion
from sgm.sampling.start import check_strength


def starts_from_clips(args: Arguments) -> bool:
    return args.strength is not None or args.invert


def check_clips(args: Arguments) -> None:
    """Raises ConfigError for a strength out of range, and for a sampler that would not undo an inversion."""
    if args.strength is not None:
        check_strength(args.strength, "args.strength")
    if args.invert and not undoes_inversion(instantiate_from_config(args.model_config.sampler_config)):
        target = args.model_config.sampler_config.target
        raise ConfigError(f"args.invert needs a sampler that leads an inversion back, which {target} does not; set "
                          "model.sampler_config.target=sgm.modules.diffusionmodules.sampling.VideoDDIMSampler")


def find_start(engine: DiffusionEngine, jobs: Sequence[Job], cond: Mapping, args: Arguments) -> Start | None:
    """Where sampling of these videos begins; None without clips."""
    if not starts_from_clips(args):
        return None
    latents = torch.cat([engine.encode_clip(job.clip()[None].to(engine.device)) for job in jobs])
    strength = 1.0 if args.strength is None else args.strength
    if not args.invert:
        return FromClip(latents, strength)
    with console.progress(desc="inversion", unit="step") as bar:
        return engine.invert(latents, cond, strength=strength, callback=lambda step: bar.update())
