"""Videos longer than trained: plain extrapolation, RIFLEx and sliding windows on the small model.

    python -m benchmarks.long_videos --videos 6                 # a few minutes
    python -m benchmarks.long_videos --videos 36 --save         # the table and pictures of docs/long_videos.md

Each way makes a video of 33 frames, about twice the 17 that the model was trained with, for each of the same prompts
from the same seeds. The judge of `shapes_judge.py` sees every second frame, so that a motion that takes twice the time
counts as right. `jump` is the largest step of the object's place between frames, relative to the usual (median) one.
`end` is the object's speed over the last quarter of the frames relative to that before, of objects that move.
"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from PIL import Image

from benchmarks.faster_by_choice import spread
from benchmarks.shapes_judge import background_level, follow_object, judge_frames
from benchmarks.small_model import configured, markdown, sample_batch, score
from common.console import run
from common.files import REPOSITORY, whole_file
from configuration.settings import Arguments
from inference.lengths import prepare_length
from inference.pipeline import load_engine
from inference.sizes import model_limits, plan_video
from media.videos import tiled, to_pixels
from tools.shapes_world import DIRECTIONS, Combination

FRAMES = 33
BATCH = 6
SHOWN = 3  # videos of each way in its picture, of which every fourth frame
WINDOWS = ["--long-video", "windows"]
WAYS: Mapping[str, Sequence[str]] = {
    "plain extrapolation": [f"model.network_config.params.num_frames={FRAMES}"],
    "RIFLEx": ["--long-video", "riflex"],
    **{f"windows of 5, overlap {n}": [*WINDOWS, f"model.time_windows=[5, {n}]"] for n in (2, 3, 4)},
    **{f"RIFLEx above 2.6, windows of 5, overlap {n}": [f"model.time_windows=[5, {n}]", "model.windows_below=2.6"]
       for n in (2, 3)},
}


@torch.no_grad()
def make(args: Arguments, combinations: Sequence[Combination]) -> list[np.ndarray]:
    """Return the frames (33, H, W, 3) of a video of each combination."""
    limits = model_limits(args.model_config)
    prepare_length(args.model_config, limits, args.sampling)
    engine, plan = load_engine(args), plan_video(limits, args.sampling)
    videos = []
    for start in range(0, len(combinations), BATCH):
        latents = sample_batch(engine, combinations[start:start + BATCH], plan.latent_shape, seed=0, start=start)
        videos += [to_pixels(engine.decode_first_stage(z[None].transpose(1, 2))[0]) for z in latents]
    return videos


def places(frames: np.ndarray) -> np.ndarray:
    """Return the object's place in each frame, (T, 2) in pixels."""
    floating = frames.astype(np.float32)
    return follow_object(floating, background_level(floating)).centroid


def jump(frames: np.ndarray) -> float:
    """Return the object's largest step between frames, relative to the median one, but at least to half a pixel."""
    steps = np.linalg.norm(np.diff(places(frames), axis=0), axis=1)
    return float(steps.max() / max(np.median(steps), 0.5))


def end(frames: np.ndarray) -> float:
    """Return the object's speed over the last quarter of the frames, relative to that before."""
    place, late = places(frames), (len(frames) - 1) // 4
    speeds = [np.linalg.norm(way[-1] - way[0]) / (len(way) - 1) for way in (place[:-late], place[-late - 1:])]
    return float(speeds[1] / speeds[0])


def row(name: str, videos: Sequence[np.ndarray], combinations: Sequence[Combination]) -> dict[str, str]:
    """Return the table's line of one way."""
    judged = score([(c, judge_frames(video[::2])) for c, video in zip(combinations, videos, strict=True)])
    ends = [end(video) for c, video in zip(combinations, videos, strict=True) if c.motion in DIRECTIONS]
    return {"": name, **judged, "jump": f"{np.median([jump(video) for video in videos]):.1f}",
            "end": f"{np.median(ends):.2f}" if ends else ""}


def picture(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Return a picture with a line of frames, every fourth one, for the first videos."""
    shown = [video[::4] for video in videos[:SHOWN]]
    return tiled(np.concatenate(shown), len(shown[0]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6, help="videos made in each way (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--save", action="store_true", help="write the pictures into docs/")
    options, overrides = parser.parse_known_args(argv)
    combinations, rows = spread(options.videos), []
    for name in options.ways:
        videos = make(configured("t2v", ["--num-frames", str(FRAMES), *WAYS[name], *overrides]), combinations)
        rows.append(row(name, videos, combinations))
        if options.save:
            target = REPOSITORY / "docs" / f"long_videos_{name.replace(',', '').replace(' ', '_')}.png"
            with whole_file(target) as partial:
                Image.fromarray(picture(videos)).save(partial)
    sys.stdout.write(markdown(rows) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
