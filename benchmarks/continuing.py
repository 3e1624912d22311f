"""Videos in segments, each of which continues the one before: what happens at the seams, on the small model.

    python -m benchmarks.continuing --videos 6                 # a few minutes
    python -m benchmarks.continuing --videos 12 --save         # the table and the picture of docs/sampling.md

Each way makes a video of 17 frames and continues it, for each of the same prompts from the same seeds. `jump` is the
object's step at a seam, relative to the usual (median) one of the first 17 frames, which counts at least half a pixel:
the median and the largest of all seams, and how many exceed 1.5. `change` is the mean absolute difference of the two
frames at a seam, relative to the usual one. Colour and shape are judged by `shapes_judge.py` over the whole video, and
over its last 17 frames.
"""
import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from PIL import Image

from benchmarks.command_line import count
from benchmarks.faster_by_choice import spread
from benchmarks.shapes_judge import background_level, follow_object, judge_frames
from benchmarks.small_model import configured, markdown
from common.console import run
from common.errors import ConfigError
from common.files import REPOSITORY, whole_file
from inference import pipeline
from inference.jobs import in_batches, plan_jobs
from inference.prompts import Prompt
from inference.segments import sample_batch, without_first
from inference.sizes import model_limits
from media.videos import tiled, to_pixels
from tools.shapes_world import NUM_FRAMES, Combination

SHOWN = 6  # videos in the picture, of which every fourth frame
LARGEST_JUMP = 1.5
PICTURE = "docs/continuing.png"


class Way(NamedTuple):
    """The number of latent frames that are kept, and how often each step is made."""

    kept: int
    rounds: int


WAYS: Mapping[str, Way] = {f"{kept} kept, steps made {'once' if rounds == 1 else 'twice'}": Way(kept, rounds)
                           for kept in (1, 2, 3) for rounds in (1, 2)}


@torch.no_grad()
def make(way: Way, segments: int, combinations: Sequence[Combination], overrides: Sequence[str]) -> list[np.ndarray]:
    """Return the frames (T, H, W, 3) of a video of each combination."""
    args = configured("t2v", ["--segments", str(segments), "--continue-from", str(way.kept), "--continue-rounds",
                              str(way.rounds), "--batch-size", "6", *overrides])
    engine, videos = pipeline.load_engine(args), []
    prompts = [Prompt(index, combination.caption) for index, combination in enumerate(combinations)]
    jobs = plan_jobs(prompts, model_limits(args.model_config), args.sampling)
    conditions = pipeline.encode_prompts(engine, jobs, None)
    for batch in in_batches(jobs, args.sampling.batch_size):
        sampled = sample_batch(engine, batch, conditions, args)
        for before, z in zip(sampled.before, sampled.latents, strict=True):
            decoded = without_first([engine.decode_first_stage(z[None].transpose(1, 2))[0]], sampled.dropped)
            videos.append(to_pixels(torch.cat([*([] if before is None else [before.float()]), *decoded], dim=1)))
    return videos


def at_seams(frames: np.ndarray, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the object's step and the change of the frames at each seam, relative to usual ones before the first."""
    floating = frames.astype(np.float32)
    track = follow_object(floating, background_level(floating))
    steps = np.linalg.norm(np.diff(track.centroid, axis=0), axis=1)
    changes = np.abs(np.diff(floating, axis=0)).mean(axis=(1, 2, 3))
    first = NUM_FRAMES - 1  # steps of the first segment
    seams = [first + i * (len(steps) - first) // (segments - 1) for i in range(segments - 1)]
    return steps[seams] / max(np.median(steps[:first]), 0.5), changes[seams] / np.median(changes[:first])


def row(name: str, videos: Sequence[np.ndarray], combinations: Sequence[Combination], segments: int) -> dict[str, str]:
    """Return the table's line of one way."""
    jumps, changes = (np.concatenate(found) for found in zip(*(at_seams(v, segments) for v in videos), strict=True))
    whole, last = ([judge_frames(video[-length:]) for video in videos] for length in (0, NUM_FRAMES))

    def right(verdicts: Sequence, attribute: str) -> str:
        pairs = zip(verdicts, combinations, strict=True)
        return f"{100 * np.mean([getattr(v, attribute) == getattr(c, attribute) for v, c in pairs]):.0f}"

    return {"": name, "videos": str(len(videos)), "jump": f"{np.median(jumps):.2f} (largest {jumps.max():.2f})",
            "above 1.5": f"{(jumps > LARGEST_JUMP).sum()} of {len(jumps)}", "change": f"{np.median(changes):.2f}",
            **{f"{attribute} (last {NUM_FRAMES})": f"{right(whole, attribute)} ({right(last, attribute)})"
               for attribute in ("color", "shape")}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6, help="videos made in each way (default: %(default)s)")
    parser.add_argument("--segments", type=count, default=3, help="segments of each, at least 2 (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--save", action="store_true", help=f"write videos of the last way into {PICTURE}")
    options, overrides = parser.parse_known_args(argv)
    if options.segments < 2:
        raise ConfigError(f"--segments is {options.segments}; one segment continues nothing, so give 2 or more")
    combinations, rows, videos = spread(options.videos), [], []
    for name in options.ways:
        videos = make(WAYS[name], options.segments, combinations, overrides)
        rows.append(row(name, videos, combinations, options.segments))
    if options.save:
        shown = [video[::4] for video in videos[:SHOWN]]
        with whole_file(REPOSITORY / PICTURE) as partial_file:
            Image.fromarray(tiled(np.concatenate(shown), len(shown[0]))).save(partial_file)
    sys.stdout.write(markdown(rows) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
