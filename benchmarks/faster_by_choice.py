"""Comparison of the lossy ways to sample faster, on the small model: the table of docs/speed.md.

    python -m benchmarks.faster_by_choice --videos 6            # a few minutes; enough for PSNR
    python -m benchmarks.faster_by_choice --videos 72           # enough for the share of right attributes

Every way makes the same videos from the same noise. PSNR compares with the lossless video, in 8-bit pixels. The columns
time and decoding are CPU time of sampling and of decoding relative to the lossless run. The column work is the number
of network evaluations computed, relative to those of the lossless run. Any `key=value` after the options overrides the
model's configuration in all runs.
"""
import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.shapes_judge import judge_file
from benchmarks.small_model import chosen, configured, markdown, psnr, sample_batch, score
from common.console import run
from common.errors import ConfigError
from configuration.settings import Arguments
from inference.pipeline import load_engine
from inference.sizes import model_limits, plan_video
from media.videos import write_outputs
from sgm.sampling import StepInfo
from tools.shapes_world import Combination

SAMPLER = "model.sampler_config.target=sgm.modules.diffusionmodules.sampling."
GUIDER = "model.sampler_config.params.guider_config.params."
BATCH = 12


def cached(kind: str, threshold: float) -> list[str]:
    """Return the overrides that turn on a step cache."""
    return [f"model.step_cache_config={{target: step_cache.{kind}, params: {{threshold: {threshold}}}}}"]


WAYS: Mapping[str, Sequence[str]] = {
    "lossless": [],
    **{f"TeaCache, {t}": cached("TeaCache", t) for t in (0.05, 0.1, 0.2)},
    **{f"first-block cache, {t}": cached("FirstBlockCache", t) for t in (0.05, 0.1, 0.2)},
    "guidance where 0.28 < sigma / alpha <= 5.42": [GUIDER + "sigma_lo=0.28", GUIDER + "sigma_hi=5.42"],
    "25 steps": ["--num-inference-steps", "25"],
    "UniPC, 12 steps": [SAMPLER + "UniPCSampler", "--num-inference-steps", "12"],
    "preview autoencoder": ["configs/tiny_preview.yaml"],
    "int8 weights": ["args.quantize_transformer=int8"],
    "fp8 weights": ["args.quantize_transformer=fp8"],
}


@dataclass(frozen=True)
class Made:
    """The result of one way: videos (n, 3, frames, H, W) in 8-bit values, CPU seconds of sampling (`seconds`) and of
    `decoding`, and network evaluations per video, requested (`passes`) and `computed`."""

    videos: Tensor
    seconds: float
    decoding: float
    passes: float
    computed: float


@torch.no_grad()
def make(args: Arguments, combinations: Sequence[Combination], folder: Path) -> Made:
    """Sample and decode a video of each combination, and write them below `folder`."""
    engine, plan = load_engine(args), plan_video(model_limits(args.model_config), args.sampling)
    videos, seconds, decoding, passes, computed = [], 0.0, 0.0, 0.0, 0.0
    for start in tqdm(range(0, len(combinations), BATCH), folder.name, unit="batch"):
        batch, steps = combinations[start:start + BATCH], []
        began = time.process_time()
        latents = sample_batch(engine, batch, plan.latent_shape, seed=0, start=start, callback=steps.append)
        seconds += time.process_time() - began
        passes += len(batch) * steps[-1].passes
        computed += _computed(steps[-1], len(batch))
        for i, z in enumerate(latents):
            began = time.process_time()
            frames = engine.decode_first_stage(z[None].transpose(1, 2)).clamp(-1, 1)
            decoding += time.process_time() - began
            write_outputs(folder / f"{start + i:03d}", [frames[0]], plan.fps)
            videos.append(((frames[0] + 1) * 127.5).round())
    return Made(torch.stack(videos), seconds, decoding, passes / len(combinations), computed / len(combinations))


def _computed(last: StepInfo, rows: int) -> float:
    """Return the network evaluations of a batch that the step cache did not skip."""
    return last.passes * (rows - sum(last.skipped))


def row(name: str, made: Made, lossless: Made, results: Sequence) -> dict[str, str]:
    """Return a row of the table; `results` are pairs of a combination and the judge's verdict."""
    pairs = list(zip(made.videos, lossless.videos, strict=True))
    quality = [psnr(one, other) for one, other in pairs if not torch.equal(one, other)]
    equal = len(pairs) - len(quality)
    told = f"{sum(quality) / len(quality):.1f} dB (worst {min(quality):.1f})" if quality else "equal"
    told += f", {equal} equal" if quality and equal else ""
    return {"": name, "passes": f"{made.passes:.0f}", "skipped": f"{100 * (1 - made.computed / made.passes):.0f} %",
            "work": f"{made.computed / lossless.computed:.2f}", "time": f"{made.seconds / lossless.seconds:.2f}",
            "decoding": f"{made.decoding / lossless.decoding:.2f}", "PSNR against lossless": told,
            "all attributes right": score(results)["all"]}


def spread(count: int) -> list[Combination]:
    """Return `count` combinations, evenly spaced over all. Raises ConfigError if there are not as many."""
    every = chosen(1)
    if not 1 <= count <= len(every):
        raise ConfigError(f"--videos is {count}; it must be 1 to {len(every)}, the number of combinations")
    return [every[i * len(every) // count] for i in range(count)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=6, help="videos made in each way (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS),
                        help="ways to compare with the lossless one, which always runs (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/faster_by_choice"),
                        help="folder of videos and table.md (default: %(default)s)")
    options, overrides = parser.parse_known_args(argv)
    combinations, lossless, rows = spread(options.videos), None, []
    for name in dict.fromkeys(["lossless", *options.ways]):
        if "weights" in name and find_spec("torchao") is None:
            sys.stdout.write(f"{name}: skipped, torchao is not installed\n")
            continue
        folder = options.out / name.replace("/", "over")
        made = make(configured("t2v", [*WAYS[name], *overrides]), combinations, folder)
        lossless = lossless or made
        results = [(c, judge_file(folder / f"{i:03d}" / "000000.mp4")) for i, c in enumerate(combinations)]
        rows.append(row(name, made, lossless, results))
    text = markdown(rows)
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(run(main))
