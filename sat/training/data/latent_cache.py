"""The latent cache: the moments of each clip's latent posterior, encoded once.

A cache folder (see `cache_files`) has the part `clips`, float16 moments (n, 2 C, t, h, w) of whole clips. For
image-to-video it also has the part `images`, moments (n, variants, 2 C, h, w) of the first frame alone, each variant
with its own draw of the noise that conditioning images get in training, and maybe `last_images` of the last frame. For
control clips it has the part `controls_KIND` in the shape of `clips`, keyed by the file that each is made of.
Clips are keyed by the digest of their file.
Text-to-video and image-to-video, training and held-out clips can share a folder.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.seeds import generator_for
from data_video import SFTDataset
from media.clips import ClipFormat
from training.data.cache_files import Part, completed
from training.data.encoders import Encoders
from training.data.marks import mark
from training.data.reading import Reader

CLIPS_AT_A_TIME = 8
Batch = Sequence[tuple[str, Tensor]]  # (digest of the clip, frames (T, 3, H, W))


@dataclass(frozen=True)
class FrameNoise:
    """The noise on conditioning images: log(sigma) ~ N(mean, deviation^2), drawn for each variant.

    `last`: the image is the clip's last frame, not its first.
    """

    mean: float
    deviation: float
    variants: int
    seed: int
    last: bool = False

    @property
    def frame(self) -> int:
        """The index of the image in a clip."""
        return -1 if self.last else 0

    def noised(self, image: Tensor, digest: str) -> Tensor:
        """Return noised variants (variants, 3, H, W) of `image` (3, H, W); depends only on seed and clip."""
        generator = generator_for(self.seed, "last frame" if self.last else "first frame", digest)
        sigma = (self.mean + self.deviation * torch.randn(self.variants, generator=generator)).exp()
        noise = torch.randn(self.variants, *image.shape, generator=generator)
        return image + sigma.view(-1, 1, 1, 1) * noise


@dataclass(frozen=True)
class CachedClip:
    """A clip's `moments` (2 C, t, h, w), those of its noised first and last frame if any, its caption.

    Moments of a frame are (variants, 2 C, h, w). `frames` is how many real frames the clip has, `mark` as in `marks`.
    """

    moments: Tensor
    image: Tensor | None
    last: Tensor | None
    caption: str
    frames: int
    mark: str = ""
    control: Tensor | None = None  # moments (2 C, t, h, w) of its control clip


def cached_latents(folder: Path, dataset: SFTDataset, encoders: Encoders, noises: Sequence[FrameNoise] = (),
                   workers: int = 0) -> list[CachedClip]:
    """Return a bucket's clips from the cache in `folder`, after creating or completing it.

    A complete cache does not build `encoders.vae`. Clips that cannot be read are left out; the data set has reported
    them. Raises DataError for a cache that was made with another encoder, size or noise.
    """
    made_of = encoders.describe_vae() | describe_form(dataset.form)
    reader = Reader(dataset, workers)

    def part(name: str, description: dict, moments: Callable[..., Tensor], entry: str = "mp4",
             keys: Sequence[str] = dataset.digests) -> dict[str, Tensor]:
        def encode(wanted: Sequence[str]) -> tuple[list[str], Tensor | None]:
            return _encoded(reader, keys, wanted, entry, lambda batch: moments(encoders.vae, batch))
        return completed(folder, Part(name, "moments", description, encode), keys)

    rows = part("clips", made_of, clip_moments)
    images: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}  # by FrameNoise.last
    for noise in noises:
        drawn = {"first frame noise": [noise.mean, noise.deviation, noise.variants, noise.seed]}
        name = "last_images" if noise.last else "images"
        images[noise.last] = part(name, made_of | drawn, partial(image_moments, noise))
    controls: dict[str, Tensor] = {}
    if dataset.control is not None:
        controls = part(f"controls_{dataset.control}", made_of | {"control": dataset.control}, clip_moments, "control",
                        dataset.control_digests)
    return [CachedClip(rows[digest], images[False].get(digest), images[True].get(digest), caption, frames,
                       mark(video.name, "content", digest, *_other(control, digest), caption), controls.get(control))
            for video, digest, control, caption, frames in zip(dataset.videos, dataset.digests, dataset.control_digests,
                                                               dataset.captions, dataset.frames, strict=True)
            if digest in rows and all(digest in images[noise.last] for noise in noises)
            and (dataset.control is None or control in controls)]


def _other(control: str, digest: str) -> list[str]:
    """Return the digest of a control clip that is another file than its clip."""
    return [control] if control != digest else []


def describe_form(form: ClipFormat) -> dict:
    return {"video size": list(form.video_size), "frames": form.max_num_frames, "fps": form.fps,
            "skipped frames": form.skip_frms_num}


def clip_moments(vae: nn.Module, batch: Batch) -> Tensor:
    return _moments(vae, torch.stack([frames for _, frames in batch]).transpose(1, 2))


def image_moments(noise: FrameNoise, vae: nn.Module, batch: Batch) -> Tensor:
    noised = torch.cat([noise.noised(frames[noise.frame], digest) for digest, frames in batch])[:, :, None]
    return _moments(vae, noised).squeeze(2).unflatten(0, (len(batch), noise.variants))


@torch.no_grad()
def _moments(vae: Any, video: Tensor) -> Tensor:
    return vae.encode(video.to(next(vae.parameters())), unregularized=True).to("cpu", torch.float16)


def _encoded(reader: Reader, keys: Sequence[str], digests: Sequence[str], entry: str,
             encode: Callable[[Batch], Tensor]) -> tuple[list[str], Tensor | None]:
    """Return the digests and moments of an entry of the readable items; the data set reports the others.

    `keys` are the digests of all items, `digests` those to encode.
    """
    numbers = {digest: number for number, digest in enumerate(keys)}
    kept, moments = [], []
    for start in range(0, len(digests), CLIPS_AT_A_TIME):
        some = digests[start:start + CLIPS_AT_A_TIME]
        items = reader.take([numbers[digest] for digest in some])
        batch = [(digest, item[entry]) for digest, item in zip(some, items, strict=True)
                 if numbers[digest] not in reader.dataset.unreadable]
        if batch:
            kept += [digest for digest, _ in batch]
            moments.append(encode(batch))
    return kept, torch.cat(moments) if moments else None
