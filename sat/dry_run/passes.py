"""The forward passes that a run makes, found by running its sampler with a network that returns zeros."""
from typing import NamedTuple

import torch

from configuration.model import ModelConfig
from configuration.settings import Arguments, SamplingSettings
from configuration.targets import instantiate_from_config
from dry_run.memory import TRANSFORMER, WEAK, frames_of_pass
from dry_run.skips import SkipCounter, skip_counter
from inference.continuing import Segments, start_of
from network.published_teacache import PublishedTeaCache
from sgm.sampling import FromClip, PassPlan, Start, invert
from sgm.windows import TimeWindows, bind


class Call(NamedTuple):
    """A forward pass: its rows, and its share of the latent frames of the longest pass."""

    rows: int
    share: float


def skips_of(args: Arguments, model: ModelConfig) -> SkipCounter | None:
    """Return a counter of skipped passes if the step cache decides by the timesteps and the weights are there."""
    known = model.step_cache_config is not None and isinstance(
        instantiate_from_config(model.step_cache_config), PublishedTeaCache)
    return skip_counter(args.run) if known else None


def network_calls(settings: SamplingSettings, model: ModelConfig, counter: SkipCounter | None = None,
                  segments: Segments | None = None, frames: int = 1) -> dict[str, list[Call]]:
    """Return the forward passes of the transformer and of a weaker one, for a video of so many latent frames.

    `counter` notes what a step cache skips. The first of `segments` is counted as continuing a clip if
    `args.continue_from` is given.
    """
    calls: dict[str, list[Call]] = {TRANSFORMER: [], WEAK: []}
    windows = None if model.time_windows is None else TimeWindows(*model.time_windows)
    longest = frames_of_pass(model, frames)

    def network(x: torch.Tensor, timesteps: torch.Tensor, *rest, weak: bool = False, layer_runner=None, **inputs
                ) -> torch.Tensor:
        calls[WEAK if weak else TRANSFORMER].append(Call(len(x), x.shape[1] / longest))
        if layer_runner is not None and counter is not None:
            counter.decide(layer_runner, timesteps)
        return torch.zeros_like(x)

    sampler = instantiate_from_config(model.sampler)
    denoiser = bind(instantiate_from_config(model.denoiser_config), network, sampler.discretization.parameterization,
                    windows, model.windows_below)
    latents = torch.zeros(settings.batch_size, frames, 1, 1, 1)
    cond = {"crossattn": torch.zeros(settings.batch_size, 1, 1)}
    unconditional = {"crossattn": torch.ones(settings.batch_size, 1, 1)}  # equal halves would be warned of
    strength = 1.0 if settings.strength is None else settings.strength
    starts: list[Start | None] = [None if settings.strength is None else FromClip(latents, strength)]
    if settings.invert:
        starts = [invert(sampler, denoiser, latents, cond, strength=strength)]
    if segments is not None:
        first = None if settings.continue_from is None else start_of(latents, settings)
        starts = [first, *[start_of(latents, settings)] * (segments.count - 1)]
    for start in starts:
        sampler(denoiser, latents, cond, None if settings.invert else unconditional, start=start,
                plan=PassPlan(None if counter is None else instantiate_from_config(model.step_cache_config),
                              one_by_one=model.guidance_one_by_one))
    return calls
