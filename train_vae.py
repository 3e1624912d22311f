"""Train the video autoencoder: `python train_vae.py --base configs/tiny_vae.yaml`.

Configuration: `model.first_stage_config` (the autoencoder with its loss), `data` (a data set of clips, and `stages`,
each with its iterations, frames per clip and batch size), `deepspeed.optimizer`, `args` (folders, intervals, seed).
Writes `<save>/3d-vae.pt` with averaged weights in the layout of released autoencoders, and `state.pt` for `--resume`.

`args.load` starts from the weights of another run, except for parts that `model.fresh_prefixes` names, which may have
other shapes. With `model.not_trainable_prefixes: [first_stage_model.encoder]` the latents do not change, so models
trained on them stay valid; `model.latent_noise` makes the decoder robust (see configs/tiny_vae_decoder.yaml and
configs/tiny_vae_preview.yaml).
"""
import json
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "sat"))

import torch
from torch import Tensor

from arguments import get_args
from common.console import run
from common.errors import ConfigError, NumericalError
from common.files import whole_file
from configuration.settings import Arguments
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config
from training.optimization import build_optimizer
from vae_modules.autoencoder import VideoAutoencodingEngine
from weights.checkpoint import load_module, read_checkpoint, read_state_dict

logger = logging.getLogger("train_vae")


@dataclass(frozen=True)
class Stage:
    """A stage of training, with batches of one size."""

    iters: int
    frames: int
    batch_size: int


class Clips:
    """All clips of the folders, in memory as bytes (N, 3, T, H, W); meant for small data sets."""

    def __init__(self, data_config, folders: list[str]):
        make = get_obj_from_str(data_config.target).create_dataset_function
        items = (item["mp4"] for folder in folders for item in _all(make(folder, None, **data_config.params)))
        self.videos = torch.stack([((v + 1) * 127.5).round().byte() for v in items]).transpose(1, 2).contiguous()

    def batch(self, index: Tensor, start: int, frames: int) -> Tensor:
        return self.videos[index, :, start:start + frames].float() / 127.5 - 1


def _all(dataset) -> Iterator[dict]:
    for i in range(len(dataset)):
        yield dataset[i]


@dataclass
class Progress:
    """The state of a run, from which it can resume."""

    model: VideoAutoencodingEngine
    average: VideoAutoencodingEngine
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0

    def save(self, folder: Path) -> None:
        with whole_file(folder / "state.pt") as path:
            torch.save({"model": self.model.state_dict(), "average": self.average.state_dict(), "step": self.step,
                        "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}, path)
        with whole_file(folder / "3d-vae.pt") as path:
            torch.save({"state_dict": {k: v.half() for k, v in self.average.state_dict().items()}}, path)

    def load(self, folder: Path) -> None:
        state = read_checkpoint(folder / "state.pt")
        load_module(self.model, state["model"], folder)
        load_module(self.average, state["average"], folder)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]


def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int, decay: float = 0.998) -> None:
    """Update the exponential moving average of the weights, which covers fewer steps early in training."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


def learning_rate(step: int, total: int, peak: float, warmup: int = 50) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


@torch.no_grad()
def psnr(model: VideoAutoencodingEngine, clips: Clips, device: torch.device) -> float:
    """Return the mean over clips of the peak signal-to-noise ratio of their reconstruction, in dB."""
    total = 0.0
    for i in range(len(clips.videos)):
        video = clips.batch(torch.tensor([i]), 0, clips.videos.shape[2]).to(device)
        frames = model.decode(model.encode(video, sample_posterior=False)).clamp(-1, 1)
        total += -10 * math.log10(((frames - video) / 2).square().mean().item())
    return total / len(clips.videos)


def train_step(p: Progress, video: Tensor, rate: float, latent_noise: float = 0.0) -> dict[str, float]:
    """Take one optimizer step on `video` (B, 3, T, H, W) and return the loss and its terms.

    With `latent_noise` tau, the decoder gets z + |n| e, n ~ N(0, tau^2) per clip, e ~ N(0, 1), which makes it robust to
    latents from a diffusion model (noise-augmented decoding, arXiv 2510.11690). Raises NumericalError if the loss is
    not finite.
    """
    z, posterior = p.model.regularization(p.model.encode(video, unregularized=True), p.generator)
    if latent_noise:
        size = latent_noise * torch.randn(len(z), 1, 1, 1, 1, generator=p.generator).abs()
        z = z + (size * torch.randn(z.shape, generator=p.generator)).to(z)
    loss, terms = p.model.loss(video, p.model.decode(z), posterior)
    if not torch.isfinite(loss):
        raise NumericalError(f"the loss is {loss.item()} at iteration {p.step}; lower deepspeed.optimizer.params.lr")
    p.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(p.model.parameters(), 1.0)
    for group in p.optimizer.param_groups:
        group["lr"] = rate
    p.optimizer.step()
    p.step += 1
    update_average(p.average, p.model, p.step)
    return {"loss": loss.item(), **{k: v.item() for k, v in terms.items()}}


def stage_at(stages: list[Stage], step: int) -> Stage:
    """Return the stage of a step; the last one after all are done."""
    for stage in stages:
        if step < stage.iters:
            return stage
        step -= stage.iters
    return stages[-1]


def build(args: Arguments) -> tuple[Progress, list[Stage]]:
    """Return the initial state and the stages of a run. Raises ConfigError if a setting is missing."""
    check_config(args.model_config, "model")
    torch.manual_seed(args.run.seed)
    model = instantiate_from_config(args.model_config.first_stage_config).to(args.run.device)
    average = instantiate_from_config(args.model_config.first_stage_config).to(args.run.device).eval()
    if args.run.load:
        load_module(model, _known(model, args), args.run.load)
    average.load_state_dict(model.state_dict())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _named(name, args, "not_trainable_prefixes"))
    optimizer = build_optimizer(args.deepspeed_config.optimizer, model)
    generator = torch.Generator().manual_seed(args.run.seed)
    stages = [Stage(**stage) for stage in args.data_config.get("stages", ())]
    if not stages or not args.training.save or not args.training.train_data:
        raise ConfigError("training needs data.stages, args.train_data and args.save; see configs/tiny_vae.yaml")
    return Progress(model, average, optimizer, generator), stages


def _known(model: VideoAutoencodingEngine, args: Arguments) -> dict[str, Tensor]:
    """Return the weights of `args.load`, with the model's own weights for the parts in `model.fresh_prefixes`."""
    loaded = read_state_dict(args.run.load)
    fresh = {name: value for name, value in model.state_dict().items() if _named(name, args, "fresh_prefixes")}
    return {name: value for name, value in loaded.items() if not _named(name, args, "fresh_prefixes")} | fresh


def _named(name: str, args: Arguments, key: str) -> bool:
    """Return True if a tensor's name starts with one of the prefixes in `model.<key>`."""
    return f"first_stage_model.{name}".startswith(tuple(args.model_config.get(key, ())))


def main(argv=None) -> None:
    args = get_args(argv, __doc__.splitlines()[0])
    p, stages = build(args)
    folder, total = Path(args.training.save), sum(s.iters for s in stages)
    peak = args.deepspeed_config.optimizer.params.lr
    folder.mkdir(parents=True, exist_ok=True)
    if args.training.resume:
        p.load(folder)
    train = Clips(args.data_config, args.training.train_data)
    valid = Clips(args.data_config, args.training.valid_data) if args.training.valid_data else None
    logger.info("%d clips; %.2f M parameters; %d iterations", len(train.videos),
                sum(x.numel() for x in p.model.parameters()) / 1e6, total)
    with open(folder / "log.jsonl", "a", buffering=1) as log:
        while p.step < total:
            stage = stage_at(stages, p.step)
            index = torch.randint(len(train.videos), (stage.batch_size,), generator=p.generator)
            start = torch.randint(train.videos.shape[2] - stage.frames + 1, (), generator=p.generator).item()
            record = train_step(p, train.batch(index, start, stage.frames).to(args.run.device),
                                learning_rate(p.step, total, peak), args.model_config.get("latent_noise", 0.0))
            record |= {"step": p.step, "frames": stage.frames}
            last = p.step == total
            if valid and (last or args.training.eval_interval and p.step % args.training.eval_interval == 0):
                record["psnr"] = psnr(p.average, valid, args.run.device)
            if last or p.step % args.training.log_interval == 0 or "psnr" in record:
                logger.info("  ".join(f"{k} {v:.4g}" for k, v in record.items()))
                log.write(json.dumps(record) + "\n")
            if last or p.step % args.training.save_interval == 0:
                p.save(folder)


if __name__ == "__main__":
    sys.exit(run(main))
