"""The problem of sampling from a closed-form world of videos with the whole engine: everything about it is known."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.clip_world import BANDWIDTH, CLIPS, read_world, write_world
from benchmarks.kernel_density import KernelDensity
from benchmarks.studies.keys import content, digest, key_of_parts
from benchmarks.studies.trained_model import Model, SmallModel, loaded
from common.kinds import AboveZero, Steps
from common.seeds import generator_for
from configuration.targets import allow_targets
from tools.shapes_world import Combination, all_combinations

WORLD = "benchmarks.clip_world"
FOLDER = Path("runs/studies/clip_worlds")


@dataclass(frozen=True, kw_only=True)
class ClipWorld(SmallModel):
    """Sampling with the exact denoiser of `clips` encoded rendered clips of each caption, of deviation `bandwidth`.

    It has the measures of SmallModel, of which the solver error has a flow of no trained network, and two more:

    - `bits` are the exact negative log-likelihood of the latents under their caption, in bits per dimension;
      `bits_floor` is that of exact draws, as many as there are videos. Samples closer to the clips lie below it.
    - `same_clip` is the probability that two videos of one caption show the same clip, by the exact weights of the
      modes; 1 / clips for exact draws (`same_clip_floor`), and more where modes are lost.

    The world is made once for each autoencoder, text encoder and number of clips, and kept in runs/studies/clip_worlds.
    """

    measures: ClassVar = (*SmallModel.measures, "bits", "bits_floor", "same_clip", "same_clip_floor")
    clips_per_caption: Steps = CLIPS
    bandwidth: AboveZero = BANDWIDTH

    def model(self) -> Model:
        allow_targets(WORLD)
        world = world_of(self.clips_per_caption, tuple(self.overrides))
        return Model((*self.overrides, f"model.denoiser_config.target={WORLD}.ClipDenoiser",
                      f"model.denoiser_config.params.world={world}",
                      f"model.denoiser_config.params.bandwidth={self.bandwidth}"))

    def beside(self, latents: Tensor, combinations: Sequence[Combination]) -> dict[str, float]:
        density = read_world(str(world_of(self.clips_per_caption, tuple(self.overrides))), self.bandwidth)[0]
        known = [one.caption for one in all_combinations()]
        group = torch.tensor([known.index(one.caption) for one in combinations]).repeat(self.repeats)
        exact = density.draw(group, generator_for("exact draws", self.repeats))
        return {"bits": bits(density, latents, group), "bits_floor": bits(density, exact, group),
                "same_clip": same_clip(density, latents, group, self.repeats),
                "same_clip_floor": 1 / self.clips_per_caption}


def bits(density: KernelDensity, latents: Tensor, group: Tensor) -> float:
    """Return the mean negative log-likelihood of clean latents (N, T, C, h, w), in bits per dimension."""
    clean = torch.ones(len(latents)), torch.zeros(len(latents))
    return float(-density.log_density(latents, *clean, group).mean() / math.log(2) / latents[0].numel())


def same_clip(density: KernelDensity, latents: Tensor, group: Tensor, repeats: int) -> float:
    """Return the probability that two repeats of a caption show one clip; latents are ordered by repeat."""
    clean = torch.ones(len(latents)), torch.zeros(len(latents))
    weights = density.weights(latents, *clean, group).view(repeats, -1, len(density.clips))
    pairs = torch.einsum("rcn,scn->rs", weights, weights) / weights.shape[1]
    return float((pairs.sum() - pairs.trace()) / (repeats * (repeats - 1)))


@lru_cache(maxsize=4)
def world_of(clips: int, overrides: tuple[str, ...]) -> Path:
    """Return the file of a world, made now if there is none for this autoencoder, text encoder and source."""
    config: Mapping = {key: value for key, value in Model(overrides).config["model"].items()
                       if key in ("first_stage_config", "conditioner_config", "scale_factor")}
    key = {"clips": clips, "model": content(config), **key_of_parts((config,), (WORLD,))}
    path = (FOLDER / f"{digest(key)[:16]}.safetensors").resolve()
    if not path.is_file():
        write_world(loaded(overrides)[0], path, clips)
    return path
