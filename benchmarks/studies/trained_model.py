"""The problem of sampling with the small text-to-video model: accuracy, distance from the data, and diversity."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch

from benchmarks.studies.base import Problem
from benchmarks.studies.clip_features import drawing
from benchmarks.studies.clips import TABLE, Clips, judged, measured, read_clips, write_clips
from benchmarks.studies.grid import Cell
from benchmarks.studies.model_config import merged
from common.errors import ConfigError
from sgm.sampling import Sampler
from sgm.sampling.base import StepInfo
from tools.shapes_world import Combination, render

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

    The intervals of the last two are bootstrapped over captions. Each cell's folder has its videos and a table of them.
    """

    measures: ClassVar = (
        "passes", "accuracy", "accuracy_low", "accuracy_high", "distance", "distance_low", "distance_high", "diversity",
        "diversity_low", "diversity_high", "color", "shape", "motion", "background", "ceiling", "floor", "videos")
    every: int = 1
    repeats: int = 2
    overrides: Sequence[str] = ()

    def __post_init__(self):
        if self.repeats < 2:
            raise ConfigError(f"problem.repeats is {self.repeats}; diversity needs at least 2 videos of a caption")

    def needs(self, part: Mapping) -> Mapping:
        return merged(*self._words)

    @property
    def _words(self) -> tuple[str, ...]:
        """The words of a command line that configure the model."""
        return "--base", "configs/tiny_t2v.yaml", "configs/inference.yaml", *self.overrides

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        from benchmarks.small_model import chosen, make_videos  # imported late: SwissArmyTransformer takes seconds

        engine, args = loaded(tuple(self.overrides))
        engine.sampler = counted = Counted(sampler)
        folder, combinations = self.place(cell), chosen(self.every)
        videos = [video for repeat in range(self.repeats) for _, video in
                  make_videos(engine, args, combinations, cell.seed * self.repeats + repeat, folder)]
        clips = judged(combinations, videos)
        write_clips(folder / TABLE, clips)
        best = autoencoded(tuple(combinations), self.repeats, tuple(self.overrides))
        return {"passes": counted.passes, **measured(clips), "ceiling": float(best.whole.mean()),
                "floor": measured(best)["distance"], "videos": len(videos)}

    def clips(self, cell: Cell) -> Clips:
        """Return the judged videos of a solved cell."""
        return read_clips(self.place(cell) / TABLE)


@lru_cache(maxsize=1)
def loaded(overrides: tuple[str, ...]):
    """Return the engine and arguments of the small text-to-video model."""
    from benchmarks.small_model import configured, load_engine

    args = configured("t2v", overrides)
    return load_engine(args), args


@lru_cache(maxsize=1)
def autoencoded(combinations: tuple[Combination, ...], repeats: int, overrides: tuple[str, ...]) -> Clips:
    """Judge rendered clips that the autoencoder encoded and decoded, the best result that any sampler can reach."""
    from media.videos import VIDEO, write_outputs

    engine, args = loaded(overrides)
    videos = []
    with TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for i, one in enumerate(combinations):
                target = Path(folder) / f"{i}_{repeat}"
                videos.append(target / VIDEO)
                frames = torch.from_numpy(render(one, drawing(one, DATA_SEED, repeat))).permute(3, 0, 1, 2)[None]
                with torch.no_grad():
                    latents = engine.encode_clip(frames.float() / 127.5 - 1).transpose(1, 2)
                    pieces = (piece[0] for piece in engine.decode_chunks(latents))
                    write_outputs(target, pieces, args.sampling.sampling_fps)
        return judged(combinations, videos)


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
