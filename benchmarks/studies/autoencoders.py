"""The problem of training variants of a small autoencoder with train_vae.py, measured by reconstructions."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmarks.reconstruction_measures import Quality, compared
from benchmarks.studies.grid import VariantCell
from benchmarks.studies.statistics import middle, resampled
from benchmarks.studies.training import Training
from common.kinds import Steps

QUALITIES = ("psnr", "ssim", "flicker", "source_flicker", "sharpness")


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(Training):
    """Training runs of an autoencoder from random weights, with the steps and the seed of a cell.

    A run has one stage, batches of `batch_size` clips of `frames` frames, and the configuration of `Training`. Of the
    averaged weights, `psnr` to `sharpness` are those of `benchmarks.reconstruction` on held-out clips, means with 95 %
    intervals over resampled clips, and `numbers` is how many numbers of a latent stand for each of a video's pixels.
    """

    measures: ClassVar = (*(f"{name}{end}" for name in QUALITIES for end in ("", "_low", "_high")), "numbers", "loss",
                          "seconds_per_step")
    base: Sequence[str] = ("configs/tiny_vae.yaml",)
    frames: Steps = 17
    batch_size: Steps = 2

    def words(self, variant: Mapping, cell: VariantCell) -> list[str]:
        stage = f"{{iters: {cell.steps}, frames: {self.frames}, batch_size: {self.batch_size}}}"
        return [*(word for word in super().words(variant, cell) if not word.startswith("args.train_iters=")),
                f"data.stages=[{stage}]"]

    def train(self, words: Sequence[str]) -> None:
        from train_vae import main  # imported late, as that of the transformer is

        main(words)

    def beside(self, words: Sequence[str]) -> dict[str, float]:
        found = list(reconstructions([*words, f"args.load={save_of(words)}/3d-vae.pt"]))
        qualities = {name: np.array([asdict(quality)[name] for quality, _ in found]) for name in QUALITIES}
        measured = {"numbers": found[0][1]}
        for name, values in qualities.items():
            low, high = middle(resampled(len(values), lambda i, values=values: values[i].mean()))
            measured |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
        return measured


def save_of(words: Sequence[str]) -> str:
    """Return the folder in which a command line trains."""
    return next(word for word in words if word.startswith("args.save=")).partition("=")[2]


@torch.no_grad()
def reconstructions(words: Sequence[str]) -> Iterator[tuple[Quality, float]]:
    """Yield the quality of each held-out clip's reconstruction, and the numbers of its latent for each pixel."""
    from arguments import get_args
    from training.autoencoder_model import build_model
    from training.data.memory_clips import MemoryClips, read_buckets

    args = get_args(words)
    clips = MemoryClips.read(read_buckets(args.data_config, args.training.valid_data))
    model = build_model(args).eval()
    for number in range(len(clips)):
        video = clips.batch(torch.tensor([number]), 0, clips.frames)
        latent = model.encode(video, sample_posterior=False)
        made = model.decode(latent)
        yield (compared(video[0].transpose(0, 1), made[0].transpose(0, 1)),
               latent.numel() / (video.numel() / video.shape[1]))
