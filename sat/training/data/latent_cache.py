"""The latent cache: the moments of each clip's latent posterior, encoded once.

A cache folder (see `cache_files`) has the part `clips`, float16 moments (n, 2 C, t, h, w) of whole clips. For
image-to-video it also has the part `images`, moments (n, variants, 2 C, h, w) of the first frame alone, each variant
with its own draw of the noise that conditioning images get in training. Text-to-video and image-to-video can share a
folder.
"""
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.seeds import generator_for
from data_video import SFTDataset
from training.data.cache_files import Part, Rows, completed
from training.data.encoders import Encoders
from training.data.reading import Reader

CLIPS_AT_A_TIME = 8
Batch = Sequence[tuple[int, Tensor]]  # (clip number, frames (T, 3, H, W))


@dataclass(frozen=True)
class FirstFrameNoise:
    """The noise on conditioning images: log(sigma) ~ N(mean, deviation^2), drawn for each variant."""

    mean: float
    deviation: float
    variants: int
    seed: int

    def noised(self, image: Tensor, clip: int) -> Tensor:
        """Return noised variants (variants, 3, H, W) of `image` (3, H, W); depends only on seed and clip number."""
        generator = generator_for(self.seed, "first frame", clip)
        sigma = (self.mean + self.deviation * torch.randn(self.variants, generator=generator)).exp()
        noise = torch.randn(self.variants, *image.shape, generator=generator)
        return image + sigma.view(-1, 1, 1, 1) * noise


@dataclass(frozen=True)
class CachedLatents:
    """The captions, `moments` (2 C, t, h, w) and, if any, `images` (variants, 2 C, h, w) of a cache's clips."""

    moments: Rows
    images: Rows | None
    captions: list[str]


def cached_latents(folder: Path, dataset: SFTDataset, encoders: Encoders, noise: FirstFrameNoise | None,
                   workers: int = 0) -> CachedLatents:
    """Return the cache in `folder`, after creating or completing it; a complete one does not build `encoders.vae`.

    Raises DataError for a cache that was made with another encoder, size or noise, or of other clips.
    """
    made_of = encoders.describe_vae() | describe_clips(dataset)
    reader = Reader(dataset, workers)

    def part(name: str, description: dict, moments: Callable[..., Tensor]) -> tuple[Rows, list[int]]:
        def encode(clips: Sequence[int]) -> tuple[list[int], Tensor | None]:
            return _encoded(reader, clips, lambda batch: moments(encoders.vae, batch))
        return completed(folder, Part(name, "moments", description, len(dataset), encode))

    rows, index = part("clips", made_of, clip_moments)
    images = None
    if noise is not None:
        drawn = {"first frame noise": [noise.mean, noise.deviation, noise.variants, noise.seed]}
        images, _ = part("images", made_of | drawn, partial(image_moments, noise))
    return CachedLatents(rows, images, [dataset.captions[i] for i in index])


def joined(parts: Sequence[CachedLatents]) -> CachedLatents:
    """Return the clips of several caches as one."""
    stored = [rows for part in parts if part.images is not None for rows in part.images.parts]
    images = Rows(stored) if stored else None
    return CachedLatents(Rows([rows for part in parts for rows in part.moments.parts]), images,
                         [caption for part in parts for caption in part.captions])


def describe_clips(dataset: SFTDataset) -> dict:
    form = dataset.form
    return {"clips": _listing(dataset), "number of clips": len(dataset), "video size": list(form.video_size),
            "frames": form.max_num_frames, "fps": form.fps, "skipped frames": form.skip_frms_num}


def _listing(dataset: SFTDataset) -> str:
    digest = hashlib.sha256()
    for video, caption in zip(dataset.videos, dataset.captions, strict=True):
        digest.update(f"{video.name}\0{video.stat().st_size}\0{caption}\n".encode())
    return digest.hexdigest()


def clip_moments(vae: nn.Module, batch: Batch) -> Tensor:
    return _moments(vae, torch.stack([frames for _, frames in batch]).transpose(1, 2))


def image_moments(noise: FirstFrameNoise, vae: nn.Module, batch: Batch) -> Tensor:
    first = torch.cat([noise.noised(frames[0], clip) for clip, frames in batch])[:, :, None]
    return _moments(vae, first).squeeze(2).unflatten(0, (len(batch), noise.variants))


@torch.no_grad()
def _moments(vae: Any, video: Tensor) -> Tensor:
    return vae.encode(video.to(next(vae.parameters())), unregularized=True).to("cpu", torch.float16)


def _encoded(reader: Reader, clips: Sequence[int], encode: Callable[[Batch], Tensor]
             ) -> tuple[list[int], Tensor | None]:
    """Return the numbers and moments of the readable clips; the data set has reported the others."""
    kept, moments = [], []
    for start in range(0, len(clips), CLIPS_AT_A_TIME):
        numbers = clips[start:start + CLIPS_AT_A_TIME]
        items = reader.take(numbers)
        batch = [(number, item["mp4"]) for number, item in zip(numbers, items, strict=True)
                 if number not in reader.dataset.unreadable]
        if batch:
            kept += [number for number, _ in batch]
            moments.append(encode(batch))
    return kept, torch.cat(moments) if moments else None
