"""The videos that a run will make: which prompt, which sample, how large, and into which folder."""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from arguments import Arguments
from images import fit_image_cover, fit_image_short_side, load_image
from prompts import Prompt
from seeds import generator_for
from torch import Tensor
from video_io import is_finished
from video_plan import ModelLimits, VideoPlan, plan_video


@dataclass(frozen=True)
class Job:
    """One video. `image` is (3, H, W) in [-1, 1], already of the video's size; None for text-to-video."""

    prompt: Prompt
    sample: int
    plan: VideoPlan
    folder: Path
    image: Tensor | None = None

    def generator(self, seed: int, purpose: str = "noise") -> torch.Generator:
        """Depends on the seed, the prompt's index and the sample's index, on nothing else."""
        return generator_for(seed, self.prompt.index, self.sample, purpose)


def plan_jobs(prompts: Iterable[Prompt], limits: ModelLimits, args: Arguments) -> list[Job]:
    """Every sample of every prompt, in order; those that an earlier run finished are left out with `--resume`.

    Reads and fits the images. Raises ConfigError and DataError for sizes and images that cannot be.
    """
    jobs = []
    for prompt in prompts:
        image, plan = _fitted(prompt.image, limits, args)
        for sample in range(args.num_samples):
            folder = Path(args.output_dir) / prompt.folder / str(sample)
            if not (args.resume and is_finished(folder, prompt.text, args.seed, args.only_save_latents)):
                jobs.append(Job(prompt, sample, plan, folder, image))
    return jobs


def in_batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Consecutive jobs of one latent shape, at most `size` together."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or job.plan.latent_shape != batch[0].plan.latent_shape):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _fitted(path: str | None, limits: ModelLimits, args: Arguments) -> tuple[Tensor | None, VideoPlan]:
    if path is None:
        return None, plan_video(limits, args)
    image = load_image(path)
    if not limits.size_from_image:
        plan = plan_video(limits, args)
        return fit_image_cover(image, (plan.height, plan.width)), plan
    short, long = sorted(args.sampling_image_size or limits.default_size)
    image = fit_image_short_side(image, short, limits.side_multiple, long)
    return image, plan_video(limits, args, size=tuple(image.shape[-2:]))
