"""Videos between two given pictures, by the small model that was fine-tuned for it.

    python -m benchmarks.first_last --videos 36
    python -m benchmarks.first_last --videos 36 --picture docs/first_last.png

First and last frame of newly rendered clips are given. Reported are the PSNR of both frames of the video against the
given ones, in 8-bit pixels, and the share of videos whose attributes and motion the judge finds right. Any `key=value`
after the options overrides the model's configuration.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.faster_by_choice import spread
from benchmarks.shapes_judge import judge_frames
from benchmarks.small_model import configured, markdown, score
from common import decibels
from common.console import progress, run
from common.files import whole_file
from common.seeds import generator_for
from configuration.settings import Arguments
from inference.pipeline import load_engine
from inference.sizes import model_limits, plan_video
from media.videos import tiled, to_pixels
from tools.shapes_world import Combination, render

WEIGHTS = "checkpoints/tiny/first_last"
BATCH = 6
SHOWN = 6  # videos in the picture, each with its given pictures at both ends


def rendered(combinations: Sequence[Combination], seed: int) -> np.ndarray:
    """Return clips (n, 17, 64, 64, 3) of these combinations."""
    return np.stack([render(c, np.random.default_rng([seed, i])) for i, c in enumerate(combinations)])


@torch.no_grad()
def make(args: Arguments, combinations: Sequence[Combination], clips: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return a video (17, 64, 64, 3) between the first and last frame of each clip."""
    engine, plan = load_engine(args), plan_video(model_limits(args.model_config), args.sampling)
    first, last = (_images(clips[:, i]) for i in (0, -1))
    videos = []
    for start in progress(range(0, len(combinations), BATCH), unit="batch"):
        rows = slice(start, start + BATCH)
        captions = [c.caption for c in combinations[rows]]
        images = engine.encode_image(first[rows], plan.latent_frames, generator_for(seed, "image", start), last[rows])
        conditioning = engine.conditioner.conditioning({"txt": captions}).shared(concat=images)
        latents = engine.sample(conditioning, shape=plan.latent_shape,
                                generator=[generator_for(seed, start + i) for i in range(len(captions))])
        videos += [to_pixels(engine.decode_first_stage(z[None].transpose(1, 2))[0]) for z in latents]
    return videos


def _images(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the PSNR of two frames of 8 bits, in dB."""
    return decibels.psnr(float(np.square(one.astype(float) - other).mean()), 255, decibels.EQUAL)


def row(combinations: Sequence[Combination], clips: np.ndarray, videos: Sequence[np.ndarray]) -> dict[str, str]:
    """Return the table's line."""
    ends = [[psnr(video[i], clip[i]) for video, clip in zip(videos, clips, strict=True)] for i in (0, -1)]
    told = [f"{np.mean(end):.1f} dB (worst {min(end):.1f}; {sum(e >= 25 for e in end)} of {len(end)} at 25 dB or more)"
            for end in ends]
    judged = score([(c, judge_frames(video)) for c, video in zip(combinations, videos, strict=True)])
    return {"first frame": told[0], "last frame": told[1], **judged}


def picture(clips: np.ndarray, videos: Sequence[np.ndarray]) -> np.ndarray:
    """Return a picture with a line for each video: the given first picture, every second frame, the given last one."""
    lines = [np.concatenate([clip[:1], video[::2], clip[-1:]])
             for clip, video in zip(clips[:SHOWN], videos[:SHOWN], strict=True)]
    return tiled(np.concatenate(lines), len(lines[0]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6, help="number of videos (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of clips and noise (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="file for a picture of some videos")
    options, overrides = parser.parse_known_args(argv)
    combinations = spread(options.videos)
    clips = rendered(combinations, options.seed)
    videos = make(configured("i2v", [f"args.load={WEIGHTS}", *overrides]), combinations, clips, options.seed)
    if options.picture is not None:
        with whole_file(options.picture) as partial:
            Image.fromarray(picture(clips, videos)).save(partial)
    sys.stdout.write(markdown([row(combinations, clips, videos)]) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
