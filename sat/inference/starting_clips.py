"""Runs that start from clips: SDEdit (`args.strength`), and inversion to noise and back (`args.invert`)."""
import logging
import math
from collections.abc import Sequence

import torch

from common import console
from common.errors import ConfigError
from configuration.model import ModelConfig
from configuration.settings import SamplingSettings
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from inference.jobs import Job
from sgm.conditioning import Conditioning
from sgm.denoiser import Denoiser
from sgm.noise_schedule import NoiseSchedule
from sgm.sampling import FromClip, Sampler, Start, evaluated_branches, idle_branches, undoes_inversion
from sgm.sampling.inversion import noisiest_inverted
from sgm.sampling.start import check_strength

logger = logging.getLogger(__name__)

STARTS = ("strength", "invert", "continue_from", "segments")  # what a video starts from


def starts_from_clips(settings: SamplingSettings) -> bool:
    return settings.strength is not None or settings.invert


def check_start(settings: SamplingSettings, model: ModelConfig, frames: int, sampler: Sampler | None = None) -> None:
    """Raise ConfigError if no step would be made, and for a sampler that would not undo an inversion.

    Also raises it for a model whose prompts name control clips, for a sampler that would add more noise than a clip is
    given, and for frames that are kept of noise, or all `frames` of the latents. `sampler` None is the model's.
    """
    sampler = instantiate_from_config(model.sampler) if sampler is None else sampler
    schedule = sampler.schedule()
    given = [key for key in STARTS if getattr(settings, key) not in (None, False)]
    if given and model.control_input:
        raise ConfigError(f"args.{given[0]} does not work with model.control_input: the clip of a prompt is what the "
                          "video follows, not what it starts from; leave it out")
    if sampler.fixed_frames and not given:
        raise ConfigError(f"sampler_config.params.fixed_frames is {sampler.fixed_frames}, but the video starts from "
                          "noise, which these frames would keep; start from a clip (args.strength), or leave "
                          "fixed_frames out")
    if sampler.fixed_frames >= frames:
        raise ConfigError(f"sampler_config.params.fixed_frames is {sampler.fixed_frames}, and the video has {frames} "
                          "latent frames, of which at least one must be new; give less")
    if not starts_from_clips(settings):
        return
    strength = 1.0 if settings.strength is None else settings.strength
    check_strength(strength, "args.strength")
    first = (noisiest_inverted if settings.invert else NoiseSchedule.index_with_left)(schedule, strength)
    if first == schedule.num_steps:
        least = math.ceil(1000 / schedule.num_steps) / 1000
        raise ConfigError(f"args.strength {strength:g} leaves none of {schedule.num_steps} step(s), so that the clip "
                          f"would not change; give more steps (--num-inference-steps), or at least {least:g}")
    if not settings.invert:
        sampler.check_first(first)
    if settings.invert and not undoes_inversion(sampler):
        raise ConfigError(f"args.invert needs a sampler that undoes an inversion, which {type(sampler).__name__} does "
                          "not; set model.sampler_config.target=sgm.modules.diffusionmodules.sampling.VideoDDIMSampler")


def warn_idle(settings: SamplingSettings, model: ModelConfig, sampler: Sampler | None = None) -> None:
    """Log a warning if a branch of guidance is evaluated in none of a run's steps, or a negative prompt by none.

    `sampler` None is the model's.
    """
    sampler = instantiate_from_config(model.sampler) if sampler is None else sampler
    denoiser = instantiate_from_config(model.denoiser_config)
    schedule = sampler.schedule()
    first = schedule.index_with_left(1.0 if settings.strength is None else settings.strength)
    idle = [] if settings.invert else idle_branches(sampler, denoiser, first)
    if idle:
        logger.warning("%s evaluates its branch %s in none of the %d step(s), so that it does not guide by it; give "
                       "more steps, or other bounds in guider_config.params (start and stop, or sigma_lo and sigma_hi)",
                       type(sampler.guider).__name__, " and ".join(idle), schedule.num_steps - first)
    scale = getattr(sampler.guider, "scale", None)
    unused = [key for key in ("cfg_scale", "control_scale") if getattr(sampler.guider, key, 1) not in (1, None)]
    if scale == 1 and unused:
        logger.warning("guider_config.params.scale is 1, which is no guidance at all, so that %s has no effect; use a "
                       "guider that has that scale alone", " and ".join(unused))
    if settings.invert and settings.num_samples > 1:
        logger.warning("args.num_samples is %d, but an inverted clip leads to one video: all samples are the same",
                       settings.num_samples)
    if settings.negative_prompt is not None and (settings.invert or not _sees_negative(sampler, denoiser, first)):
        logger.warning("args.negative_prompt has no effect: no step of this run evaluates an unconditional branch%s",
                       ", since an inverted clip is not guided" if settings.invert else
                       "; guide with a scale other than 1, by a guider that has one")


def _sees_negative(sampler: Sampler, denoiser: Denoiser, first: int) -> bool:
    evaluated = evaluated_branches(sampler, denoiser, first)
    return any(one.unconditional and one.name in evaluated for one in sampler.guider.passes)


def find_start(engine: DiffusionEngine, jobs: Sequence[Job], conditioning: Conditioning, settings: SamplingSettings,
               show: bool = True) -> Start | None:
    """Return the start of sampling for these videos; None if they do not start from clips. `show`: a progress bar."""
    if not starts_from_clips(settings):
        return None
    latents = torch.cat([_latents(engine, job) for job in jobs])
    strength = 1.0 if settings.strength is None else settings.strength
    if not settings.invert:
        return FromClip(latents, strength)
    with console.progress(desc="inversion", unit="step", disable=not show) as bar:
        return engine.invert(latents, conditioning, strength=strength, callback=lambda step: bar.update())


def _latents(engine: DiffusionEngine, job: Job) -> torch.Tensor:
    """Return the latents (1, T, C, h, w) of what a video starts from, with padding: those given, or its clip's."""
    if job.latents is not None:
        return job.latents[None].to(engine.device)
    return engine.encode_clip(job.clip()[None].to(engine.device))
