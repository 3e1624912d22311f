"""Videos longer than a model was trained with: by one frequency of its positions (RIFLEx), or window by window."""
import logging
import math
from collections.abc import MutableMapping
from typing import Any

from common.errors import ConfigError
from configuration.settings import RIFLEX, SamplingSettings
from inference.sizes import ModelLimits, choose_frames, extend_positions
from network.positions import BASE
from network.rotary_axes import intrinsic_frequency

logger = logging.getLogger(__name__)

OVERLAP = 0.6  # of a window: measured, see docs/long_videos.md


def prepare_length(model: MutableMapping[str, Any], limits: ModelLimits, settings: SamplingSettings) -> str | None:
    """Change a `model` section for the length of the video; return a line on the way, if longer than trained.

    Raises ConfigError if `args.long_video` asks for a way that this model does not have.
    """
    frames = choose_frames(limits, settings.num_frames, settings.sampling_num_frames)
    trained = limits.trained_frames
    if frames <= trained:
        if settings.long_video is not None:
            logger.warning("args.long_video has no effect on %d frames, which this model was trained with", frames)
        extend_positions(model, frames)
        return None
    keys = [key for key in ("time_windows", "windows_below") if model.get(key) is not None]
    if settings.long_video == RIFLEX and keys:
        raise ConfigError(f"args.long_video is riflex, but model.{keys[0]} asks for windows; leave one of them out")
    way = way_of(limits, settings, frames)
    if way not in limits.longer or frames > limits.longer[way]:
        possible = ", ".join(f"{name} up to {longest} frames" for name, longest in limits.longer.items())
        raise ConfigError(f"args.long_video {way}: not possible for {frames} frames of this model, only {possible}")
    told = _with_riflex(model, limits, frames) if way == RIFLEX else _in_windows(model, limits, frames)
    return f"{frames} frames are longer than the {trained} that this model was trained with: {told}"


def way_of(limits: ModelLimits, settings: SamplingSettings, frames: int) -> str:
    """Return the way in which a video of more frames than trained is made: the one asked for, or the first that can."""
    return settings.long_video or next(way for way, longest in limits.longer.items() if frames <= longest)


def _with_riflex(model: MutableMapping[str, Any], limits: ModelLimits, frames: int) -> str:
    network = model["network_config"]["params"]
    part = network["modules"]["pos_embed_config"]
    params = part.get("params") or {}
    if params.get("riflex") in (None, True):
        head = network["hidden_size"] // network["num_attention_heads"]
        patches = limits.sampled_latents(limits.trained_frames) // limits.patch[0]
        k = intrinsic_frequency(patches, head // 4, params.get("theta", BASE))
        part["params"] = {**params, "riflex": {"k": k}}
    extend_positions(model, frames)
    return f"by RIFLEx, frequency {part['params']['riflex']['k']}"


def _in_windows(model: MutableMapping[str, Any], limits: ModelLimits, frames: int) -> str:
    if model.get("step_cache_config") is not None:
        raise ConfigError("a video of this length is sampled in windows, and model.step_cache_config would give a "
                          "window what belongs to another; leave it out, or make the video shorter")
    if model.get("time_windows") is None:
        size, patch = limits.sampled_latents(limits.trained_frames), limits.patch[0]
        overlap = math.ceil(OVERLAP * size / patch) * patch
        model["time_windows"] = [size, overlap]
    size, overlap = model["time_windows"]
    if size > (most := limits.sampled_latents(limits.trained_frames)):
        raise ConfigError(f"model.time_windows: a window of {size} latent frames is longer than the {most} that this "
                          "model was trained with; give at most as many")
    told = f"in windows of {size} latent frames, of which neighbours share at least {overlap}"
    below = model.get("windows_below")
    if below is None:
        return told
    part = model["network_config"]["params"]["modules"]["pos_embed_config"]
    if limits.fixed_table or (part.get("params") or {}).get("riflex") is False:
        raise ConfigError("model.windows_below: this model cannot be given the whole of a longer video, which needs "
                          "rotary positions with RIFLEx; leave it out")
    return f"{told}; where sigma / alpha is above {below:g}, as a whole {_with_riflex(model, limits, frames)}"
