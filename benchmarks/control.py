"""The small model with control input: do videos follow the control clip, in the colours of the caption?

    python -m benchmarks.control                  # 36 held-out clips; beside them the text-to-video model
    python -m benchmarks.control --save           # also writes docs/control.png

The control clip is the mask of a rendered clip that training never shows. `overlap` is the intersection over union of
that mask with the mask of the video, over all frames. The text-to-video model gets the same captions and noise, so its
overlap is that of a video which obeys the caption alone; what the autoencoder alone loses of the rendered clips is the
least. Any `key=value` after the options overrides the
configuration of both models.
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

from benchmarks.command_line import count
from benchmarks.shapes_judge import judge_frames
from benchmarks.small_model import BATCH, chosen, configured, control_of, markdown, rendered, sample_batch, score
from common.console import run
from common.files import REPOSITORY, whole_file
from diffusion_video import build_codec
from inference.pipeline import load_engine
from inference.sizes import model_limits, plan_video
from media.controls import made_control
from media.videos import to_pixels
from tools.shapes_world import Combination

MODELS = {"with the control clip": "control", "text-to-video": "t2v"}
SEED = 0
FOLLOWS = 0.8  # the overlap from which on a video counts as following: an edge of one pixel at radius 10 is 0.82
SHOWN, EVERY = 6, 4  # videos in the picture, and frames between those shown


@torch.no_grad()
def make(model: str, combinations: Sequence[Combination], overrides: Sequence[str]) -> list[Tensor]:
    """Return the video (17, 3, 64, 64) in [-1, 1] of each combination."""
    args = configured(model, overrides)
    engine, plan = load_engine(args), plan_video(model_limits(args.model_config), args.sampling)
    videos: list[Tensor] = []
    for start in range(0, len(combinations), BATCH):
        latents = sample_batch(engine, combinations[start:start + BATCH], plan.latent_shape, SEED, start)
        videos += engine.decode_first_stage(latents.transpose(1, 2)).transpose(1, 2).clamp(-1, 1)
    return videos


@torch.no_grad()
def reconstructed(combinations: Sequence[Combination]) -> list[Tensor]:
    """Return what the autoencoder makes of the rendered clips."""
    codec = build_codec(configured("control", []).of_engine()).eval()
    latents = (codec.encode_first_stage(rendered(c, SEED)[None].transpose(1, 2), sample_posterior=False)
               for c in combinations)
    return [codec.decode_first_stage(z)[0].transpose(0, 1).clamp(-1, 1) for z in latents]


def overlap(video: Tensor, control: Tensor) -> float:
    """Return the intersection over union of a video's mask with a control clip's, both (T, 3, H, W)."""
    found, wanted = made_control("mask", video) > 0, control > 0
    return float((found & wanted).sum() / (found | wanted).sum())


def row(name: str, videos: Sequence[Tensor], combinations: Sequence[Combination]) -> dict[str, str]:
    """Return the table's line of one model."""
    overlaps = np.array([overlap(v, control_of(c, SEED)) for v, c in zip(videos, combinations, strict=True)])
    judged = [(c, judge_frames(to_pixels(v.transpose(0, 1)))) for v, c in zip(videos, combinations, strict=True)]
    return {"": name, **score(judged), "overlap, median": f"{np.median(overlaps):.2f}",
            "least": f"{overlaps.min():.2f}", f"at least {FOLLOWS}": f"{100 * (overlaps >= FOLLOWS).mean():.1f}"}


def picture(videos: Sequence[Tensor], combinations: Sequence[Combination]) -> np.ndarray:
    """Return a picture of some videos, each below its control clip."""
    lines = []
    for video, combination in list(zip(videos, combinations, strict=True))[::max(1, len(videos) // SHOWN)][:SHOWN]:
        for clip in (control_of(combination, SEED), video):
            lines.append(np.concatenate(list(to_pixels(clip[::EVERY].transpose(0, 1))), axis=1))
    half = len(lines) // 2
    return np.concatenate([np.concatenate(part) for part in (lines[:half], lines[half:])], axis=1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=count, default=3, help="of the combinations, judge every n-th (default: 3)")
    parser.add_argument("--save", action="store_true", help="write the picture into docs/")
    options, overrides = parser.parse_known_args(argv)
    combinations, rows = chosen(options.every), []
    rows.append(row("the autoencoder alone", reconstructed(combinations), combinations))
    for name, model in MODELS.items():
        videos = make(model, combinations, overrides)
        rows.append(row(name, videos, combinations))
        if options.save and model == "control":
            with whole_file(REPOSITORY / "docs" / "control.png") as partial:
                Image.fromarray(picture(videos, combinations)).save(partial)
    sys.stdout.write(markdown(rows) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
