"""The small text-to-video model as a problem: what the judge sees in its videos, how far they are from the data."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.studies.clip_features import drawing
from benchmarks.studies.clips import TABLE, Clips, judged, measured, read_clips, write_clips
from benchmarks.studies.grid import Cell
from common.errors import ConfigError
from sgm.sampling import Sampler
from sgm.sampling.base import StepInfo
from tools.shapes_world import Combination, render

AUTOENCODER = "autoencoder"
DATA_SEED = 1  # of rendered clips that are not those that stand for the data


@dataclass(frozen=True)
class SmallModel:
    """Every `every`-th combination of the world of shapes, `repeats` videos each, the same noise in every cell;
    `overrides` to the model's configuration.

    `accuracy` is the share right in all of its attributes (95 % Wilson interval), `ceiling` that of rendered clips
    which were only encoded and decoded. `distance` is the Frechet distance between Gaussians that are fitted to
    features of the videos and of rendered clips (`clip_features`), each less the data's mean at the same caption, in
    the features' units; `floor` that of the encoded and decoded clips, as many as there are videos. `diversity` is the
    deviation over repeats of what the world draws at random (`DRAWN`), relative to rendered clips: 1 is theirs, 0
    always the same; videos that show no object can take it above 1. Intervals of the last two: bootstrap over captions.
    Videos and a table of each cell's are written below `folder`.
    """

    cell_type = Cell
    measures = ("passes", "accuracy", "accuracy_low", "accuracy_high", "distance", "distance_low", "distance_high",
                "diversity", "diversity_low", "diversity_high", "color", "shape", "motion", "background", "ceiling",
                "floor", "videos")
    every: int = 1
    repeats: int = 2
    overrides: Sequence[str] = ()
    folder: str = "runs/studies/videos"

    def __post_init__(self):
        if self.repeats < 2:
            raise ConfigError(f"problem.repeats is {self.repeats}; diversity needs 2 or more videos of a caption")

    def solve(self, sampler: Sampler, cell: Cell) -> dict[str, float]:
        from benchmarks.small_model import chosen, make_videos  # SwissArmyTransformer: some seconds

        engine, args = loaded(tuple(self.overrides))
        engine.sampler = counted = Counted(sampler)
        folder, combinations = Path(self.folder) / str(cell), chosen(self.every)
        videos = [video for repeat in range(self.repeats) for _, video in
                  make_videos(engine, args, combinations, cell.seed * self.repeats + repeat, folder)]
        clips = judged(combinations, videos)
        write_clips(folder / TABLE, clips)
        best = autoencoded(tuple(combinations), self.repeats, tuple(self.overrides), self.folder)
        return {"passes": counted.passes, **measured(clips), "ceiling": float(best.whole.mean()),
                "floor": measured(best)["distance"], "videos": len(videos)}

    def clips(self, cell: Cell) -> Clips:
        """Of a cell that was solved."""
        return read_clips(Path(self.folder) / str(cell) / TABLE)


@lru_cache(maxsize=1)
def loaded(overrides: tuple[str, ...]):
    """(engine, args) of the small text-to-video model."""
    from benchmarks.small_model import configured, load_engine

    args = configured("t2v", overrides)
    return load_engine(args), args


@lru_cache(maxsize=1)
def autoencoded(combinations: tuple[Combination, ...], repeats: int, overrides: tuple[str, ...], folder: str) -> Clips:
    """Rendered clips that the autoencoder took apart and put together: the best that any sampler can do."""
    from media.videos import VIDEO, write_outputs

    engine, args = loaded(overrides)
    videos = []
    for repeat in range(repeats):
        for i, one in enumerate(combinations):
            target = Path(folder) / AUTOENCODER / f"{i:03d}_{one.caption}" / str(repeat)
            videos.append(target / VIDEO)
            frames = torch.from_numpy(render(one, drawing(one, DATA_SEED, repeat))).permute(3, 0, 1, 2)[None]
            with torch.no_grad():
                latents = engine.encode_clip(frames.float() / 127.5 - 1).transpose(1, 2)
                write_outputs(target, (piece[0] for piece in engine.decode_chunks(latents)), args.sampling_fps)
    return judged(combinations, videos)


@dataclass
class Counted:
    """A sampler that knows how many network passes its last run took."""

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
