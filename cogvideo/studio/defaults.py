"""The values with which the form begins: those of a model's own configuration."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE, configured
from cogvideo.studio.models import Model
from configuration.yaml_files import plain
from inference.checks import source_of_prompts
from inference.sizes import ModelLimits, choose_frames, model_limits


@dataclass(frozen=True)
class Defaults:
    """A model's own settings: what its prompts need, its length and size, and its sampler, schedule and guider.

    `parts` has class and parameters by role.
    """

    source: str
    limits: ModelLimits
    frames: int
    height: int
    width: int
    steps: int
    parts: Mapping[str, tuple[str, dict[str, Any]]]

    @classmethod
    def of(cls, model: Model) -> "Defaults":
        """Return the settings of a model. Raises ConfigError for a sampler or guider that is not offered."""
        args = model.arguments()
        limits, source = model_limits(args.model_config), source_of_prompts(args.sampling, args.model_config)
        sampler = plain(args.model_config.sampler_config)
        height, width = args.sampling.sampling_image_size or limits.default_size
        return cls(source or "", limits, choose_frames(limits, args.sampling.num_frames,
                   args.sampling.sampling_num_frames), height, width,
                   (sampler.get("params") or {}).get("num_steps") or 50, parts_of(sampler))

    @property
    def takes_pictures(self) -> bool:
        return "image" in self.source

    @property
    def takes_clips(self) -> bool:
        return "control" in self.source or "clip" in self.source or not self.source

    @property
    def lengths(self) -> list[tuple[str, int]]:
        """The lengths that the model can make, with a word on those that are longer than it was trained for."""
        return [(f"{count}{'' if count <= self.limits.trained_frames else ', longer than trained'}", count)
                for count in self.limits.frame_counts]

    def sides(self, axis: int) -> str:
        """Return what a side of the video, height (0) or width (1), can be, in words."""
        bound = "" if self.limits.largest is None else f", at most {self.limits.largest[axis]}"
        return f"a multiple of {self.limits.side_multiple}{bound}"


def parts_of(sampler: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return class and parameters of a configured sampler, of its schedule and of its guider, by role."""
    params = sampler.get("params") or {}
    return {SAMPLER: configured(SAMPLER, sampler), SCHEDULE: configured(SCHEDULE, params["discretization_config"]),
            GUIDER: configured(GUIDER, params.get("guider_config") or {})}
