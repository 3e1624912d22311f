"""Bits per dimension of held-out clips' latents under the small text-to-video model.

    python -m benchmarks.likelihood                       # clips rendered from a seed that training did not use
    python -m benchmarks.likelihood --clips 36 --levels 48 --probes 2

The latents of rendered clips, noised to the network's least noise, go along the probability-flow ODE of the conditional
estimate to Gaussian noise (`sgm.likelihood`). Prints the mean over clips with a 95 % interval over resampled clips, for
captions seen and never seen in training. See docs/samplers.md.
"""
import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch

from benchmarks.markdown import table
from benchmarks.schedule_costs import HIGHEST, LOWEST
from benchmarks.studies.statistics import middle, resampled
from common.console import run
from common.errors import ConfigError
from common.seeds import generator_for
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from sgm.likelihood import Trace, log_likelihood
from tools.shapes_world import Combination


def bits(engine: DiffusionEngine, clips: Sequence[Combination], options: argparse.Namespace) -> np.ndarray:
    """Return the bits per dimension (probes, clips) of rendered clips, all in one batch."""
    from benchmarks.small_model import rendered  # imported late: SwissArmyTransformer takes seconds

    videos = torch.stack([rendered(one, options.seed + i) for i, one in enumerate(clips)]).transpose(1, 2)
    with torch.no_grad():
        latents = engine.encode_clip(videos)
        texts = {"txt": [one.caption for one in clips]}
        cond, _ = engine.conditioner.get_unconditional_conditioning(texts, texts, force_uc_zero_embeddings=["txt"])
    schedule = instantiate_from_config({"target": "sgm.discretizer.LogSNRDiscretization", "params": {
        "sigma_min": LOWEST, "sigma_max": HIGHEST}}).schedule(options.levels)
    noise = torch.randn(latents.shape, generator=generator_for("likelihood", options.seed))
    denoiser = engine.denoiser.bind(engine.predict, "VE")
    found = log_likelihood(denoiser, latents + LOWEST * noise, cond, schedule,
                           Trace(options.probes, generator_for("probes", options.seed)))
    return (-found / latents[0].numel() / math.log(2)).double().cpu().numpy()


def row(label: str, found: np.ndarray) -> list[str]:
    """Return a table's row: mean over clips with its interval, and the deviation between probes."""
    each = found.mean(axis=0)
    interval = ""
    if len(each) > 1:
        interval = " ({:.4f} to {:.4f})".format(*middle(resampled(len(each), lambda clips: each[clips].mean())))
    probes = f"{found.mean(axis=1).std(ddof=1):.4f}" if len(found) > 1 else ""
    return [label, str(len(each)), f"{each.mean():.4f}{interval}", probes]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=36, help="held-out clips, at most 108 (default: %(default)s)")
    parser.add_argument("--levels", type=int, default=24, help="levels of the flow (default: %(default)s)")
    parser.add_argument("--probes", type=int, default=2, help="of Hutchinson's estimator (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="of clips, noise and probes (default: %(default)s)")
    options = parser.parse_args(argv)
    for name, least, most in (("clips", 1, 108), ("levels", 2, 1000), ("probes", 1, 100), ("seed", 0, 2**31)):
        if not least <= getattr(options, name) <= most:
            raise ConfigError(f"--{name}: {getattr(options, name)} is not from {least} to {most}")
    from benchmarks.small_model import chosen, configured, load_engine

    every = chosen(1)
    clips = [every[i * len(every) // options.clips] for i in range(options.clips)]
    found, rows = bits(load_engine(configured("t2v", ())), clips, options), []
    for label, held_out in (("seen", False), ("never seen", True)):
        chosen_clips = [i for i, one in enumerate(clips) if one.held_out is held_out]
        if chosen_clips:
            rows.append(row(label, found[:, chosen_clips]))
    rows.append(row("all", found))
    sys.stdout.write(table(["captions", "clips", "bits per dimension (95 %)", "deviation of probes"], rows) + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
