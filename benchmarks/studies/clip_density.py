"""The problem of sampling from a closed-form world of videos with the whole engine: everything about it is known."""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
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

    It has the measures of SmallModel, of which the solver error has a flow of no trained network, and three more:

    - `bits` are the exact negative log-likelihood of the latents under their caption, in bits per dimension;
      `bits_floor` is that of exact draws, as many as there are videos. Samples closer to the clips lie below it.
    - `bits_off` is how far those of a video are from the mean of exact draws; `bits_off_floor` is that of exact draws.
    - `same_clip` is the probability that two videos of one caption show the same clip, by the exact weights of the
      modes; 1 / clips for exact draws (`same_clip_floor`), and more where modes are lost.

    The world is made once for each autoencoder, text encoder and number of clips, and kept in runs/studies/clip_worlds.
    """

    measures: ClassVar = (*SmallModel.measures, "bits", "bits_low", "bits_high", "bits_floor", "bits_off",
                          "bits_off_low", "bits_off_high", "bits_off_floor", "same_clip", "same_clip_floor")
    of_videos: ClassVar = (*SmallModel.of_videos, "bits", "bits_off")
    clips_per_caption: Steps = CLIPS
    bandwidth: AboveZero = BANDWIDTH

    def model(self) -> Model:
        allow_targets(WORLD)
        world = world_of(self.clips_per_caption, tuple(self.overrides))
        return Model((*self.overrides, f"model.denoiser_config.target={WORLD}.ClipDenoiser",
                      f"model.denoiser_config.params.world={world}",
                      f"model.denoiser_config.params.bandwidth={self.bandwidth}"))

    def beside(self, latents: Tensor, combinations: Sequence[Combination]) -> dict[str, float]:
        density, group = self._density(combinations)
        exact = self._exact_bits(combinations)
        return {"bits_floor": float(exact.mean()), "bits_off_floor": float(np.abs(exact - exact.mean()).mean()),
                "same_clip": same_clip(density, latents, group, self.repeats),
                "same_clip_floor": 1 / self.clips_per_caption}

    def of_each(self, latents: Tensor, combinations: Sequence[Combination]) -> dict[str, np.ndarray]:
        found = bits(*self._density(combinations), latents)
        return {"bits": found, "bits_off": np.abs(found - self._exact_bits(combinations).mean())}

    def _exact_bits(self, combinations: Sequence[Combination]) -> np.ndarray:
        """Return the bits per dimension of exact draws, one for each video."""
        density, group = self._density(combinations)
        return bits(density, group, density.draw(group, generator_for("exact draws", self.repeats)))

    def _density(self, combinations: Sequence[Combination]) -> tuple[KernelDensity, Tensor]:
        """Return the density, and the number (N,) of the caption of each row, all captions for each repeat."""
        density = read_world(str(world_of(self.clips_per_caption, tuple(self.overrides))), self.bandwidth)[0]
        known = [one.caption for one in all_combinations()]
        return density, torch.tensor([known.index(one.caption) for one in combinations]).repeat(self.repeats)


def bits(density: KernelDensity, group: Tensor, latents: Tensor) -> np.ndarray:
    """Return the negative log-likelihood (N,) of clean latents (N, T, C, h, w), in bits per dimension."""
    clean = torch.ones(len(latents)), torch.zeros(len(latents))
    return (-density.log_density(latents, *clean, group) / math.log(2) / latents[0].numel()).double().numpy()


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
