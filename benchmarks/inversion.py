"""Error of inverting clips to noise and sampling them back, by steps and rounds of the fixed-point iteration.

    python -m benchmarks.inversion                             # all steps and rounds
    python -m benchmarks.inversion --steps 50 --rounds 1 4     # a few minutes

Clips of the shapes world go through the small text-to-video model, each with its caption and without guidance. PSNR
(dB) compares the decoded result with the decoded latent of the clip, so that the autoencoder's error does not count.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch

from arguments import get_args
from benchmarks.command_line import count
from common.console import run
from common.decibels import EQUAL, psnr
from diffusion_video import DiffusionEngine
from inference.pipeline import load_engine
from tools.shapes_world import Combination, all_combinations, render

STEPS = (10, 25, 50, 100)
ROUNDS = (1, 2, 3, 4, 5)


@torch.no_grad()
def round_trip(engine: DiffusionEngine, combination: Combination, num_steps: int, rounds: int) -> float:
    """Return the PSNR of one clip in dB."""
    frames = torch.from_numpy(render(combination, np.random.default_rng(5))).permute(3, 0, 1, 2)[None]
    latents = engine.encode_clip(frames.float() / 127.5 - 1)
    conditioning = engine.conditioner.conditioning({"txt": [combination.caption]}).unguided()
    start = engine.invert(latents, conditioning, num_steps, rounds=rounds)
    again = engine.sample(conditioning, shape=latents.shape[1:], num_steps=num_steps, start=start)
    one, other = (engine.decode_first_stage(z.transpose(1, 2)).clamp(-1, 1) for z in (latents, again))
    return psnr(float((one - other).square().mean()), 2, EQUAL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=count, default=16, help="number of clips (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps to try")
    parser.add_argument("--rounds", type=int, nargs="+", default=ROUNDS,
                        help="numbers of fixed-point rounds per step to try")
    options, overrides = parser.parse_known_args(argv)
    engine = load_engine(get_args(["--base", "configs/tiny_t2v.yaml", "configs/inference.yaml", *overrides]))
    clips = np.random.default_rng(6).permutation(np.array(all_combinations()))[:options.clips]
    sys.stdout.write("| steps | rounds | mean PSNR | worst |\n| --- | --- | --- | --- |\n")
    for num_steps in options.steps:
        for rounds in options.rounds:
            quality = [round_trip(engine, clip, num_steps, rounds) for clip in clips]
            sys.stdout.write(f"| {num_steps} | {rounds} | {np.mean(quality):.2f} dB | {min(quality):.2f} dB |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(main))
