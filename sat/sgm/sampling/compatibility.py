"""The check, before a run, that a sampler, its guider and a denoiser can work together."""
from common.errors import ConfigError
from sgm.denoiser import Denoiser
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
