"""Clips encoded once: the moments of each clip's latent posterior, with its caption, in safetensors files.

A cache folder holds `clips.json` (what it was made of) and `clips-NNNNN.safetensors` with, for up to 256 clips,
`moments` (n, 2 C, t, h, w) float16 and the clips' numbers, `index` (n,). For image-to-video also `images.json` and
`images-NNNNN.safetensors`, whose `moments` (n, variants, 2 C, h, w) are of the first frame alone, under as many draws
of the noise that conditioning images get in training. Text-to-video and image-to-video can share a folder.
"""
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

import parallel
from checkpoint import read_state_dict
from data_video import SFTDataset
from errors import ConfigError, DataError
from files import whole_file
from seeds import generator_for

logger = logging.getLogger(__name__)

CLIPS_PER_FILE = 256
CLIPS_AT_A_TIME = 8


@dataclass(frozen=True)
class FirstFrameNoise:
    """Noise on conditioning images: log(sigma) ~ N(mean, deviation), a new draw for each variant."""

    mean: float
    deviation: float
    variants: int
    seed: int

    def noised(self, image: Tensor, clip: int) -> Tensor:
        """(3, H, W) -> (variants, 3, H, W); depends on the clip's number and the seed alone."""
        generator = generator_for(self.seed, "first frame", clip)
        sigma = (self.mean + self.deviation * torch.randn(self.variants, generator=generator)).exp()
        noise = torch.randn(self.variants, *image.shape, generator=generator)
        return image + sigma.view(-1, 1, 1, 1) * noise


@dataclass(frozen=True)
class CachedLatents:
    """`moments` (N, 2 C, t, h, w), `images` (N, variants, 2 C, h, w) or None, and the N captions."""

    moments: Tensor
    images: Tensor | None
    captions: list[str]


@dataclass(frozen=True)
class Part:
    """One kind of file in a cache folder: `name.json`, `name-NNNNN.safetensors`."""

    name: str
    description: dict  # everything that decides the content
    encode: Callable[[Sequence[tuple[int, Tensor]]], Tensor]  # numbers and frames (T, 3, H, W) of n clips -> (n, ...)


def cached_latents(folder: Path, dataset: SFTDataset, vae: nn.Module, noise: FirstFrameNoise | None) -> CachedLatents:
    """The cache in `folder`, first made or completed, each process its share of the files.

    Raises DataError for a cache that was made otherwise (another encoder, clips, size or noise).
    """
    form = dataset.form
    made_of = {"encoder": fingerprint(vae.encoder), "clips": listing(dataset), "number of clips": len(dataset),
               "video size": [int(side) for side in form.video_size], "frames": form.max_num_frames, "fps": form.fps,
               "skipped frames": form.skip_frms_num}
    clips = completed(folder, dataset, Part("clips", made_of, partial(clip_moments, vae)))
    images = None
    if noise is not None:
        made_of = made_of | {"first frame noise": [noise.mean, noise.deviation, noise.variants, noise.seed]}
        images = completed(folder, dataset, Part("images", made_of, partial(image_moments, vae, noise)))["moments"]
    return CachedLatents(clips["moments"], images, [dataset.captions[i] for i in clips["index"].tolist()])


def joined(parts: Sequence[CachedLatents]) -> CachedLatents:
    """Several data folders as one."""
    images = None if parts[0].images is None else torch.cat([part.images for part in parts])
    return CachedLatents(torch.cat([part.moments for part in parts]), images, [c for p in parts for c in p.captions])


def listing(dataset: SFTDataset) -> str:
    digest = hashlib.sha256()
    for video, caption in zip(dataset.videos, dataset.captions, strict=True):
        digest.update(f"{video.name}\0{video.stat().st_size}\0{caption}\n".encode())
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def clip_moments(vae: nn.Module, batch: Sequence[tuple[int, Tensor]]) -> Tensor:
    return _moments(vae, torch.stack([frames for _, frames in batch]).transpose(1, 2))


def image_moments(vae: nn.Module, noise: FirstFrameNoise, batch: Sequence[tuple[int, Tensor]]) -> Tensor:
    first = torch.cat([noise.noised(frames[0], clip) for clip, frames in batch])[:, :, None]
    return _moments(vae, first).squeeze(2).unflatten(0, (len(batch), noise.variants))


@torch.no_grad()
def _moments(vae: nn.Module, video: Tensor) -> Tensor:
    return vae.encode(video.to(next(vae.parameters())), unregularized=True).to("cpu", torch.float16)


def completed(folder: Path, dataset: SFTDataset, part: Part) -> dict[str, Tensor]:
    """All tensors of one part, whose missing files are written first."""
    _check_or_write_description(folder, part)
    files = [folder / f"{part.name}-{i:05d}.safetensors" for i in range(-(-len(dataset) // CLIPS_PER_FILE))]
    rank, size = parallel.data_rank_and_size()
    missing = [i for i in range(rank, len(files), size) if not files[i].is_file()]
    for i in tqdm(missing, f"{part.name} of {folder.name}", unit="file", disable=rank > 0 or not missing):
        clips = range(i * CLIPS_PER_FILE, min((i + 1) * CLIPS_PER_FILE, len(dataset)))
        _write_file(files[i], _encoded(dataset, clips, part))
    if dist.is_initialized():
        dist.barrier()
    return _read_files(files)


def _encoded(dataset: SFTDataset, clips: Sequence[int], part: Part) -> dict[str, Tensor]:
    """The tensors of one file. Clips that cannot be read are left out; the data set reports them."""
    kept, moments = [], []
    for batch in _readable(dataset, clips):
        kept += [clip for clip, _ in batch]
        moments.append(part.encode(batch))
    tensors = {"index": torch.tensor(kept, dtype=torch.int64)}
    return tensors | {"moments": torch.cat(moments)} if moments else tensors


def _readable(dataset: SFTDataset, clips: Sequence[int]) -> Iterator[list[tuple[int, Tensor]]]:
    batch = []
    for clip in clips:
        frames = dataset[clip]["mp4"]
        if clip not in dataset.unreadable:
            batch.append((clip, frames))
        if batch and (len(batch) == CLIPS_AT_A_TIME or clip == clips[-1]):
            yield batch
            batch = []


def _check_or_write_description(folder: Path, part: Part) -> None:
    path = folder / f"{part.name}.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise DataError(f"latent cache {path} is damaged ({problem}): delete the folder") from problem
        differing = [key for key, value in part.description.items() if found.get(key) != value]
        if differing:
            raise DataError(f"latent cache {folder} was made with another {', '.join(differing)}: delete the folder, or "
                            "set args.latent_cache to another")
    if dist.is_initialized():
        dist.barrier()  # nobody looks after another wrote
    if not path.is_file() and parallel.is_main_process():
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(part.description, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with whole_file(path) as unfinished:
        save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished)


def _read_files(files: Sequence[Path]) -> dict[str, Tensor]:
    parts = [tensors for tensors in map(read_state_dict, files) if "moments" in tensors]
    if not parts:
        raise DataError(f"latent cache {files[0].parent} holds no clip: none of them could be read; replace them")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in ("moments", "index")}
    if not torch.isfinite(tensors["moments"]).all():
        raise DataError(f"latent cache {files[0].parent} holds latents that are not finite: check the autoencoder's "
                        "weights (first_stage_config.params.ckpt_path)")
    return tensors


def check_countable(dataset) -> None:
    """Raises ConfigError for data that has no fixed list of clips, which order and cache need."""
    if not isinstance(dataset, SFTDataset):
        raise ConfigError(f"data.target is {type(dataset).__name__}; training needs data_video.SFTDataset: unpack the "
                          "shards into folders of videos/ and labels/")
