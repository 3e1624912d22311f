"""The problem of sampling with the small text-to-video model: accuracy, distance from the data, and diversity."""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.shapes_errors import UNITS
from benchmarks.studies.base import Problem
from benchmarks.studies.clip_features import drawing
from benchmarks.studies.clips import TABLE, Clips, judged, measured, read_clips, write_clips
from benchmarks.studies.grid import Cell
from benchmarks.studies.model_config import merged
from benchmarks.studies.references import Reference, reference
from common.errors import ConfigError
from common.kinds import Steps
from media.videos import VIDEO, write_outputs
from sgm.sampling import Sampler
from sgm.sampling.base import StepInfo
from tools.shapes_world import Combination, render

WORDS = ("--base", "configs/tiny_t2v.yaml", "configs/inference.yaml")
SOLVER = ("error", "pixel_error", "other_basin")
BY_DEGREE = tuple(UNITS)
DATA_SEED = 1  # seed of rendered clips other than those that represent the data


@dataclass(frozen=True, kw_only=True)
class SmallModel(Problem):
    """Videos of every `every`-th combination of the shapes world, `repeats` of each, with the same noise in all cells.

    `overrides` changes the model's configuration. The measures:

    - `accuracy` is the share of videos with all attributes right (95 % Wilson interval); `ceiling` is the accuracy of
      rendered clips that were only encoded and decoded.
    - `distance` is the Frechet distance between Gaussians fitted to features (`clip_features`) of the videos and of
      rendered clips, each minus the data's mean for the same caption, in units of the features; `floor` is that of the
      encoded and decoded clips, as many as there are videos.
    - `diversity` is the deviation over repeats of features that the world draws at random (`DRAWN`), relative to
      rendered clips: 1 equals the data, 0 means no variation. Videos without an object can raise it above 1.
    - `error` is the solver error: the root mean square distance of latents from the end of the probability flow from
      the same noise with the same guider, `pixel_error` that of the videos in 8-bit pixels. `other_basin` is the share
      of videos whose judged attributes are not those of the flow's end. `unsettled` is the share of noises that are
      left out of the three, since the two methods of `references` do not agree with `reference_steps` steps.
      Without `reference_steps` there is no reference, and they are NaN: for noisy samplers, which follow no flow.
    - `place_error` to `edge_overlap` are those of `shapes_errors`, each with its floor, that of encoded and decoded
      clips. `error_floor` is how far apart the two methods of the reference end.

    The intervals are bootstrapped over captions. Each cell's folder has its videos and a table of them.
    """

    measures: ClassVar = (
        "passes", "accuracy", "accuracy_low", "accuracy_high", "distance", "distance_low", "distance_high", "diversity",
        "diversity_low", "diversity_high", "color", "shape", "motion", "background", "ceiling", "floor", "videos",
        *(f"{name}{end}" for name in (*SOLVER, *BY_DEGREE) for end in ("", "_low", "_high")),
        *(f"{name}_floor" for name in ("error", *BY_DEGREE)), "unsettled")
    of_videos: ClassVar = (*SOLVER, *BY_DEGREE)  # numbers of each video, which comparisons may name
    every: int = 1
    repeats: int = 2
    overrides: Sequence[str] = ()
    reference_steps: Steps | None = 100

    def __post_init__(self):
        if self.repeats < 2:
            raise ConfigError(f"problem.repeats is {self.repeats}; diversity needs at least 2 videos of a caption")

    def needs(self, part: Mapping) -> Mapping:
        return self.model().config

    def model(self) -> "Model":
        """Return the model that is sampled with."""
        return Model(tuple(self.overrides))

    def beside(self, latents: Tensor, combinations: Sequence[Combination]) -> dict[str, float]:
        """Return further measures of latents, all combinations of the first repeat, then of the second, and so on."""
        return {}

    def of_each(self, latents: Tensor, combinations: Sequence[Combination]) -> dict[str, np.ndarray]:
        """Return further numbers (N,) of each of these latents; their means are measures."""
        return {}

    def ends(self, cell: Cell, combinations: Sequence[Combination], seeds: Sequence[int]) -> Reference | None:
        """Return the ends of the flow with a cell's guidance, None if the study has no reference."""
        if self.reference_steps is None:
            return None
        return reference(self.model(), combinations, seeds, self.config(cell)["guidance"], self.reference_steps,
                         self.place(cell).parent / "references")

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        from benchmarks.small_model import chosen  # imported late: SwissArmyTransformer takes seconds

        model, combinations = self.model(), chosen(self.every)
        seeds = [cell.seed * self.repeats + repeat for repeat in range(self.repeats)]
        counted, place = Counted(sampler), self.place(cell)
        latents = model.run(counted, combinations, seeds)
        videos, ends = model.write(latents, combinations, seeds, place), self.ends(cell, combinations, seeds)
        solver = {} if ends is None else ends.compared(latents, videos)
        clips = judged(combinations, videos, {**solver, **self.of_each(latents, combinations)})
        write_clips(place / TABLE, clips)
        best = autoencoded(tuple(combinations), self.repeats, model.overrides)
        least = measured(best)
        return {**dict.fromkeys(self.measures, math.nan), "passes": counted.passes, **measured(clips),
                **self.beside(latents, combinations), "ceiling": float(best.whole.mean()), "floor": least["distance"],
                "videos": len(videos), **({} if ends is None else ends.about()),
                **{f"{name}_floor": least[name] for name in BY_DEGREE}}

    def clips(self, cell: Cell) -> Clips:
        """Return the judged videos of a solved cell."""
        return read_clips(self.place(cell) / TABLE)


@dataclass(frozen=True)
class Model:
    """The small text-to-video model with changes to its configuration, as `references` uses a model."""

    overrides: tuple[str, ...]

    @property
    def config(self) -> Mapping:
        """The configuration that results depend on, without its sampler, which every cell replaces."""
        whole = merged(*WORDS, *self.overrides)
        return {**whole, "model": {key: value for key, value in whole["model"].items() if key != "sampler_config"}}

    @torch.no_grad()
    def run(self, sampler: Sampler, combinations: Sequence[Combination], seeds: Sequence[int]) -> Tensor:
        """Return latents (N, T, C, h, w): all combinations with the first seed, then with the second, and so on."""
        from benchmarks.small_model import make_latents

        engine, args = loaded(self.overrides)
        engine.sampler = sampler
        return torch.stack([z for seed in seeds
                            for z in make_latents(engine, args, combinations, seed, f"seed {seed}")])

    @torch.no_grad()
    def write(self, latents: Tensor, combinations: Sequence[Combination], seeds: Sequence[int], folder: Path
              ) -> list[Path]:
        """Write the videos of latents from `run` below a folder and return their paths."""
        from benchmarks.small_model import write_latents

        engine, args = loaded(self.overrides)
        paths = self.paths(combinations, seeds, folder)
        for z, path in zip(latents, paths, strict=True):
            write_latents(engine, args, z, path.parent)
        return paths

    @staticmethod
    def paths(combinations: Sequence[Combination], seeds: Sequence[int], folder: Path) -> list[Path]:
        """Return where the videos are."""
        return [folder / f"{i:03d}_{one.caption}" / str(seed) / VIDEO
                for seed in seeds for i, one in enumerate(combinations)]


@lru_cache(maxsize=1)
def loaded(overrides: tuple[str, ...]):
    """Return the engine and arguments of the small text-to-video model."""
    from benchmarks.small_model import configured, load_engine

    args = configured("t2v", overrides)
    return load_engine(args), args


@lru_cache(maxsize=1)
def autoencoded(combinations: tuple[Combination, ...], repeats: int, overrides: tuple[str, ...]) -> Clips:
    """Judge rendered clips that the autoencoder encoded and decoded, the best result that any sampler can reach."""
    engine, args = loaded(overrides)
    with TemporaryDirectory() as folder:
        return judged(combinations, [
            reconstructed(engine, args, render(one, drawing(one, DATA_SEED, repeat)), Path(folder) / f"{i}_{repeat}")
            for repeat in range(repeats) for i, one in enumerate(combinations)])


@torch.no_grad()
def reconstructed(engine, args, frames: np.ndarray, folder: Path) -> Path:
    """Encode and decode a clip (T, 64, 64, 3) of 8 bits, write it below a folder and return the video's path."""
    video = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    latents = engine.encode_clip(video).transpose(1, 2)
    write_outputs(folder, (piece[0] for piece in engine.decode_chunks(latents)), args.sampling.sampling_fps)
    return folder / VIDEO


@dataclass
class Counted:
    """A wrapper of a sampler that counts the network evaluations per row of its last run (`passes`)."""

    sampler: Sampler
    passes: int = field(default=0, init=False)

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)

    def __call__(self, *args, callback: Callable[[StepInfo], None] | None = None, **inputs) -> torch.Tensor:
        def count(step: StepInfo) -> None:
            self.passes = step.passes
            if callback is not None:
                callback(step)

        return self.sampler(*args, callback=count, **inputs)
