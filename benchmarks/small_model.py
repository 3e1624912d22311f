"""Quality of the small models, judged from the mp4 files they write.

    python -m benchmarks.small_model vae                      # PSNR and judged attributes of reconstructed clips
    python -m benchmarks.small_model t2v --seeds 4            # every combination, seen in training and unseen
    python -m benchmarks.small_model t2v --first-seed 4       # the same from noise of another seed
    python -m benchmarks.small_model t2v --colors orange      # a colour added by a LoRA (args.load_lora=FOLDER)
    python -m benchmarks.small_model i2v --seeds 1            # video from a first frame
    python -m benchmarks.small_model table --every 4          # samplers x guidance on every fourth combination

Beside right or wrong, the tables of vae, t2v and i2v have the errors of benchmarks.shapes_errors by degree.
Any `key=value` after the options overrides the model's configuration. Videos and a Markdown table of the results are
written below `--out` (default runs/small_model).
"""
import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from arguments import get_args
from benchmarks.command_line import count, refuse_given
from benchmarks.markdown import table
from benchmarks.shapes_errors import errors_of, summary
from benchmarks.shapes_judge import ATTRIBUTES, Verdict, judge_file, judge_frames, wilson_interval
from common import decibels
from common.console import run
from common.files import whole_file
from common.seeds import generator_for
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from inference.pipeline import load_engine
from inference.sizes import model_limits, plan_video
from media.clips import read_frames
from media.controls import made_control
from media.videos import VIDEO, write_outputs
from sgm.sampling import StepInfo
from tools.shapes_world import COLORS, PALETTE, Combination, all_combinations, render
from weights.lora import configure_lora

BATCH = 36
SAMPLERS = ("EulerEDMSampler", "VPSDEDPMPP2MSampler")
SCHEDULES = ("release", "decreasing", "increasing")


def guiders(scale: float) -> dict[str, dict]:
    """Return configurations of plain classifier-free guidance and of DynamicCFG with every schedule in SCHEDULES."""
    module = "sgm.modules.diffusionmodules.guiders"
    plain = {"plain CFG": {"target": f"{module}.VanillaCFG", "params": {"scale": scale}}}
    return plain | {f"DynamicCFG {name}": {"target": f"{module}.DynamicCFG", "params": {
        "scale": scale, "exp": 5, "num_steps": 50, "schedule": name}} for name in SCHEDULES}


def configured(model: str, overrides: Sequence[str]) -> Arguments:
    """Return the sampling arguments of a small model ("t2v", "i2v" or another with a configs/tiny_*.yaml)."""
    args = get_args(["--base", f"configs/tiny_{model}.yaml", "configs/inference.yaml", *overrides])
    configure_lora(args.model_config, args.run)
    return args


def chosen(every: int, colors: Sequence[str] = tuple(COLORS)) -> list[Combination]:
    """Return combinations with one background, in alternation, for each colour, shape and motion; of those seen in
    training and of those unseen, every n-th."""
    picked = [c for i, c in enumerate(all_combinations(colors)) if i % 2 == (i // 2) % 2]
    seen, unseen = ([c for c in picked if c.held_out is held] for held in (False, True))
    return seen[::every] + unseen[::every]


def rendered(combination: Combination, seed: int) -> Tensor:
    """Return a rendered clip (17, 3, 64, 64) in [-1, 1], whose first frame or mask a model is given."""
    frames = render(combination, np.random.default_rng([seed, 77]))
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def control_of(combination: Combination, seed: int) -> Tensor:
    """Return the control clip (17, 3, 64, 64) of a rendered clip: its mask."""
    return made_control("mask", rendered(combination, seed))


def sample_batch(engine: DiffusionEngine, batch: Sequence[Combination], shape: Sequence[int], seed: int, start: int = 0,
                 callback: Callable[[StepInfo], None] | None = None) -> Tensor:
    """Sample latents (B, T, C, h, w) of `shape` (T, C, h, w); row i draws its noise from (seed, start + i)."""
    conditioning = engine.conditioner.conditioning({"txt": [c.caption for c in batch]})
    if engine.config.noised_image_input:
        images = torch.stack([rendered(c, seed)[0] for c in batch])
        concat = engine.encode_image(images, shape[0], generator_for(seed, start))
        conditioning = conditioning.shared(concat=concat)
    if engine.config.control_input:
        controls = torch.stack([control_of(c, seed) for c in batch]).transpose(1, 2)
        conditioning = conditioning.shared(concat=engine.encode_clip(controls))
    return engine.sample(conditioning, shape=shape, callback=callback,
                         generator=[generator_for(seed, start + i) for i in range(len(batch))])


@torch.no_grad()
def make_latents(engine: DiffusionEngine, args: Arguments, combinations: Sequence[Combination], seed: int, name: str
                 ) -> Iterator[Tensor]:
    """Sample and yield the latents (T, C, h, w) of a video of each combination; `name` is shown beside the progress."""
    plan = plan_video(model_limits(args.model_config), args.sampling)
    for start in tqdm(range(0, len(combinations), BATCH), name, unit="batch"):
        yield from sample_batch(engine, combinations[start:start + BATCH], plan.latent_shape, seed, start)


@torch.no_grad()
def write_latents(engine: DiffusionEngine, args: Arguments, latents: Tensor, target: Path) -> Path:
    """Write the video of latents (T, C, h, w) to a folder and return its path."""
    write_outputs(target, (piece[0] for piece in engine.decode_chunks(latents[None].transpose(1, 2))),
                  plan_video(model_limits(args.model_config), args.sampling).fps)
    return target / VIDEO


def make_videos(engine: DiffusionEngine, args: Arguments, combinations: Sequence[Combination], seed: int, folder: Path
                ) -> Iterator[tuple[Combination, Path]]:
    """Sample and write one video of each combination; yield the combination and the video's path."""
    latents = make_latents(engine, args, combinations, seed, folder.name)
    for i, (combination, z) in enumerate(zip(combinations, latents, strict=True)):
        yield combination, write_latents(engine, args, z, folder / f"{i:03d}_{combination.caption}" / str(seed))


def score(results: Sequence[tuple[Combination, Verdict]]) -> dict[str, str]:
    """Return the percentage of videos with each attribute right, and with all right (95 % Wilson interval)."""
    right = [verdict.matches(combination) for combination, verdict in results]
    row = {name: f"{100 * np.mean([r[name] for r in right]):.1f}" for name in ATTRIBUTES}
    whole = sum(all(r[name] for name in ATTRIBUTES) for r in right)
    low, high = wilson_interval(whole, len(right))
    row["all"] = f"{100 * whole / len(right):.1f} ({100 * low:.1f}–{100 * high:.1f})"
    return {"videos": str(len(right)), **row}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Return rows as a Markdown table; the first row names the columns."""
    names = list(rows[0])
    return table(names, [[row[name] for name in names] for row in rows])


class Measured(NamedTuple):
    """A video of a combination: what the judge sees in it, and its errors by degree."""

    combination: Combination
    verdict: Verdict
    errors: dict[str, float]

    @classmethod
    def of(cls, combination: Combination, video: Path) -> "Measured":
        """Judge a video's file."""
        frames = read_frames(str(video))
        return cls(combination, judge_frames(frames), errors_of(frames, combination))


def judged_row(videos: Sequence[Measured]) -> dict[str, str]:
    """Return what is right, per cent, and the mean errors by degree (their 95th percentile)."""
    return score([(v.combination, v.verdict) for v in videos]) | summary([v.errors for v in videos])


def split_rows(label: str, videos: Sequence[Measured]) -> list[dict[str, str]]:
    """Return a row for combinations seen in training and one for those never seen."""
    parts = {"seen": [v for v in videos if not v.combination.held_out],
             "never seen": [v for v in videos if v.combination.held_out]}
    return [{"": label, "combinations": name, **judged_row(part)} for name, part in parts.items() if part]


def seeds_of(options: argparse.Namespace) -> range:
    """Return the seeds that the command line asks for."""
    return range(options.first_seed, options.first_seed + options.seeds)


def judge_model(model: str, args: Arguments, options: argparse.Namespace) -> list[dict[str, str]]:
    """Sample and judge every chosen combination; for i2v also compare the first frame with the given one."""
    engine, results, errors = load_engine(args), [], []
    for seed in seeds_of(options):
        for combination, video in make_videos(engine, args, chosen(options.every, options.colors), seed,
                                              Path(options.out) / model):
            results.append(Measured.of(combination, video))
            if model == "i2v":
                shown = read_frames(str(video))[0].astype(float)
                given = (rendered(combination, seed)[0].permute(1, 2, 0).numpy() + 1) * 127.5
                errors.append(np.square(shown - given).mean())
    rows = split_rows(model, results)
    if errors:
        quality = [decibels.psnr(error, 255, decibels.EQUAL) for error in errors]
        rows[0]["first frame PSNR"] = f"{np.mean(quality):.2f} dB (worst {min(quality):.2f})"
        rows[1:] = [row | {"first frame PSNR": ""} for row in rows[1:]]
    return rows


def compare_samplers(args: Arguments, options: argparse.Namespace) -> list[dict[str, str]]:
    """Sample and judge with every pair of SAMPLERS and guider."""
    engine, rows = load_engine(args), []
    scale = args.model_config.sampler_config.params.guider_config.params.scale
    for sampler in SAMPLERS:
        for name, guider in guiders(scale).items():
            config = OmegaConf.merge(args.model_config.sampler_config, {"params": {"guider_config": None}})
            config.target = f"sgm.modules.diffusionmodules.sampling.{sampler}"
            config.params.guider_config = guider
            engine.sampler = instantiate_from_config(config)
            folder = Path(options.out) / "table" / f"{sampler} {name}"
            results = [(c, judge_file(v)) for seed in seeds_of(options)
                       for c, v in make_videos(engine, args, chosen(options.every), seed, folder)]
            rows += [{"sampler": sampler, "guidance": name, **score(results)}]
    return rows


@torch.no_grad()
def judge_vae(args: Arguments, folder: Path, clips: int = 64) -> list[dict[str, str]]:
    """Reconstruct newly rendered clips from the posterior's mean; report PSNR in 8-bit pixels and the judge's score.

    The score is nearly the upper limit for videos sampled with this autoencoder.
    """
    vae, plan = load_engine(args).first_stage_model, plan_video(model_limits(args.model_config), args.sampling)
    quality, results = [], []
    for i, combination in enumerate(np.random.default_rng(5).permutation(np.array(all_combinations()))[:clips]):
        video = torch.from_numpy(render(combination, np.random.default_rng([i, 5]))).permute(3, 0, 1, 2)[None].float()
        frames = vae.decode(vae.encode(video / 127.5 - 1, sample_posterior=False)).clamp(-1, 1)
        quality.append(psnr(((frames + 1) * 127.5).round(), video))
        target = folder / f"{i:03d}_{combination.caption}"
        write_outputs(target, [frames[0]], plan.fps)
        results.append(Measured.of(combination, target / VIDEO))
    return [{"PSNR": f"{np.mean(quality):.2f} dB", "worst": f"{min(quality):.2f} dB", **judged_row(results)}]


def psnr(one: Tensor, other: Tensor) -> float:
    """Return the PSNR in dB of 8-bit values."""
    return decibels.psnr((one - other).square().mean().item(), 255, decibels.EQUAL)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["vae", "t2v", "i2v", "table"], help="model to judge, or table")
    parser.add_argument("--seeds", type=count, default=1, help="videos per combination")
    parser.add_argument("--first-seed", type=int, default=0, help="lowest seed (default: %(default)s)")
    parser.add_argument("--every", type=count, default=1, help="judge only every n-th combination")
    parser.add_argument("--colors", nargs="+", choices=PALETTE, default=list(COLORS),
                        help="colours to sample with t2v and i2v (default: those of the training data)")
    parser.add_argument("--out", default="runs/small_model", help="folder of videos and tables (default: %(default)s)")
    options, overrides = parser.parse_known_args(argv)
    if options.what == "vae":
        refuse_given(parser, options, ("seeds", "first_seed", "every", "colors"), "on an autoencoder")
    if options.what == "table":
        refuse_given(parser, options, ("colors",), "on the table")
    started = time.time()
    args = configured("i2v" if options.what == "i2v" else "t2v", overrides)
    if options.what == "vae":
        rows = judge_vae(args, Path(options.out) / "vae")
    elif options.what == "table":
        rows = compare_samplers(args, options)
    else:
        rows = judge_model(options.what, args, options)
    text = markdown(rows)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{options.what}.md") as path:
        path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{time.time() - started:.0f} s\n")


if __name__ == "__main__":
    sys.exit(run(main))
