"""The check, before a run, that a sampler, its guider and a denoiser can work together."""
from dataclasses import replace

from common.errors import ConfigError
from sgm.denoiser import Denoiser
from sgm.guidance_scale import is_unguided
from sgm.guiders import COND
from sgm.noise_schedule import NoiseLevel
from sgm.sampling.base import Sampler


def check_compatible(sampler: Sampler, denoiser: Denoiser, image_given: bool = False) -> None:
    """Raise ConfigError if this sampler (schedule and guider included) cannot run with this denoiser.

    `image_given` is True if runs start from a given latent, as SDEdit does.
    """
    if sampler.starts_from_image and not image_given:
        raise ConfigError(f"sampler_config: {type(sampler).__name__} starts from a clip, and none is given; choose "
                          "another sampler")
    first = sampler.schedule(1 if sampler.num_steps is None else sampler.num_steps).levels()[0]
    denoiser.check_schedule(sampler.discretization.parameterization, first.timestep is not None)
    untimed = first.timestep is None and denoiser.timestep_at_ratio(first.ratio) is None
    if sampler.guider.needs_timestep() and untimed:
        raise ConfigError(f"guider_config: {type(sampler.guider).__name__}'s schedule release needs timesteps, and "
                          f"neither {type(sampler.discretization).__name__} nor {type(denoiser).__name__} has any; "
                          "choose another schedule, or DiscreteDenoiser")
    if sampler.adaptive and sampler.guider.needs_timestep():
        raise ConfigError(f"guider_config: the scale of {type(sampler.guider).__name__}'s schedule release jumps from "
                          f"timestep to timestep, so that no step of {type(sampler).__name__} is small enough; choose "
                          "another schedule")


def idle_branches(sampler: Sampler, denoiser: Denoiser, first: int = 0) -> list[str]:
    """Return the names of the guider's branches that no step from `first` on evaluates; none if its scale is 1."""
    guider = sampler.guider
    if is_unguided(getattr(guider, "scale", 1.0)):
        return []
    evaluated = evaluated_branches(sampler, denoiser, first)
    return [one.name for one in guider.passes if one.name not in evaluated]


def evaluated_branches(sampler: Sampler, denoiser: Denoiser, first: int = 0) -> set[str]:
    """Return the names of the guider's branches that the steps from `first` on evaluate."""
    guider, evaluated = sampler.guider, {COND.name}
    for level in sampler.schedule().levels()[first:-1]:
        timed = _timed(level, denoiser)
        if not is_unguided(guider.scale_at(timed)):
            evaluated |= {one.name for one in guider.passes_at(timed)}
    return evaluated


def _timed(level: NoiseLevel, denoiser: Denoiser) -> NoiseLevel:
    """Return the level with a timestep, the denoiser's of equal SNR if the schedule has none."""
    return level if level.timestep is not None else replace(level, timestep=denoiser.timestep_at_ratio(level.ratio))
