"""The training data of a run: folders of clips, sorted into buckets, read from their files or from a cache."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import ConcatDataset

from common.compression import Compression
from common.errors import ConfigError
from common.patches import patch_grid
from configuration.settings import Arguments
from configuration.targets import get_obj_from_str, instantiate_from_config
from configuration.yaml_files import require
from data_video import SFTDataset
from diffusion_video import FIRST_FRAME_NOISE
from media.clips import ClipFormat, clip_forms
from media.videos import check_encoder
from network.context import VideoContext
from training.data.batches import Batches, CachedClips, LiveClips
from training.data.encoders import Encoders
from training.data.latent_cache import FirstFrameNoise, cached_latents, joined
from training.data.text_cache import cached_text
from training.samples import SampleRequest


@dataclass(frozen=True)
class Sources:
    """The buckets of training clips and of held-out clips (possibly none), and the clips that samples start from.

    `text` maps the index of each frozen text encoder to the text embedding of every caption; None without a cache.
    """

    train: list[Batches]
    valid: list[Batches]
    shown: SFTDataset
    text: dict[int, dict[str, Tensor]] | None = None


def check_data(args: Arguments) -> None:
    """Raise ConfigError if the class of the data cannot be trained on, or the model does not take its clip sizes."""
    check_clip_data(args.data_config, args.training.split)
    with torch.device("meta"):
        network = instantiate_from_config(args.model_config.network_config)
    for form in clip_forms(**args.data_config.params):
        _check_fits(network, form, Compression.of_first_stage(args.model_config.first_stage_config))


def check_clip_data(data: DictConfig, split: str) -> None:
    """Raise ConfigError if section `data` does not describe folders of clips that can be counted."""
    require(data, "data", "target", "params")
    require(data.params, "data.params", "video_size", "fps", "max_num_frames")
    kind = get_obj_from_str(data.target, "data")
    if not issubclass(kind, SFTDataset):
        raise ConfigError(f"data.target is {kind.__name__}; training needs data_video.SFTDataset, which knows how "
                          "many clips it has; unpack the shards into folders of videos/ and labels/")
    if split.split(",")[0].strip() not in ("1", "1.0"):
        raise ConfigError(f"args.split is {split}; clips cannot be held out by fraction; put them into a folder "
                          "of their own, set args.valid_data to it, and leave args.split at 1,0,0")


def _check_fits(network, form: ClipFormat, compression: Compression) -> None:
    """Raise ConfigError if the network has no positions for a clip of this form; computes only on `meta` tensors."""
    frames = compression.latent_frames(form.max_num_frames)
    frames += -frames % network.patch_size[0]
    positions = network.mixins["pos_embed"]
    try:
        if not compression.has_size(*form.video_size):
            raise ConfigError(f"height and width must be multiples of {compression.space}")
        x = torch.empty(1, frames, network.in_channels, *compression.latent_size(*form.video_size), device="meta")
        grid = patch_grid(x, network.patch_size)
        text = torch.empty(1, positions.text_length, 1, device="meta")
        rotary = positions.rotary(grid, positions.text_length, x.device)
        positions.position_embedding_forward(None, VideoContext(x, text, x, grid, rotary))
    except ConfigError as problem:
        raise ConfigError(f"data.params.video_size {list(form.video_size)} with max_num_frames {form.max_num_frames}: "
                          f"{problem}") from problem


def read_sources(args: Arguments) -> Sources:
    """Return the run's data, from `args.latent_cache` if that is set (completing it), or else from the clips' files."""
    train = _folders(args.data_config, args.training.train_data or [])
    valid = _folders(args.data_config, args.training.valid_data or [])
    shown = (valid or train)[0][0]
    if args.training.latent_cache is None:
        return Sources(_live(train, args.training.num_workers), _live(valid, args.training.num_workers), shown)
    encoders = Encoders(args)
    text: dict[int, dict[str, Tensor]] = {}
    train_buckets = _cached(args, encoders, train, "train", text)
    valid_buckets = _cached(args, encoders, valid, "valid", text)
    return Sources(train_buckets, valid_buckets, shown, text)


def _folders(data: DictConfig, folders: Sequence[str]) -> list[list[SFTDataset]]:
    """Return the buckets of each folder."""
    kind: Any = get_obj_from_str(data.target, "data")
    return [kind.buckets(folder, **data.params) for folder in folders]


def _live(found: Sequence[Sequence[SFTDataset]], workers: int) -> list[Batches]:
    return [LiveClips(ConcatDataset(datasets), workers) for datasets in _by_form(found).values()]


def _by_form(found: Sequence[Sequence[SFTDataset]]) -> dict[ClipFormat, list[SFTDataset]]:
    forms: dict[ClipFormat, list[SFTDataset]] = {}
    for dataset in (dataset for datasets in found for dataset in datasets):
        forms.setdefault(dataset.form, []).append(dataset)
    return forms


def _cached(args: Arguments, encoders: Encoders, found: Sequence[Sequence[SFTDataset]], name: str,
            text: dict[int, dict[str, Tensor]]) -> list[Batches]:
    """Return the cached buckets of all folders; adds the text embeddings of their captions to `text`."""
    noise = None
    if args.model_config.get("noised_image_input"):
        noise = FirstFrameNoise(*FIRST_FRAME_NOISE, args.training.first_frame_variants, args.run.seed)
    one_form = len(clip_forms(**args.data_config.params)) == 1
    parts: dict[ClipFormat, list] = {}
    assert args.training.latent_cache is not None
    for i, datasets in enumerate(found):
        folder = Path(args.training.latent_cache) / f"{name}-{i}"
        for dataset in datasets:
            place = folder if one_form else folder / dataset.form.name
            latents = cached_latents(place, dataset, encoders, noise, args.training.num_workers)
            parts.setdefault(dataset.form, []).append(latents)
        captions = [caption for dataset in datasets for caption in dataset.captions]
        for number in encoders.frozen_text():
            text.setdefault(number, {}).update(cached_text(folder, captions, encoders, number))
    return [CachedClips(joined(latents), args.model_config.get("input_key", "mp4")) for latents in parts.values()]


def sample_request(args: Arguments, dataset: SFTDataset) -> SampleRequest | None:
    """Return a request for samples with captions and first frames of clips spread evenly over the data set.

    Returns None without `args.sample_interval`.
    """
    if not args.training.sample_interval:
        return None
    decode = not args.training.only_log_video_latents
    if decode:
        check_encoder()
    count = min(args.training.sample_count, len(dataset))
    items = [dataset[i * len(dataset) // count] for i in range(count)]
    form = dataset.form
    compression = Compression.of_first_stage(args.model_config.first_stage_config)
    frames, channels = compression.latent_frames(form.max_num_frames), args.sampling.latent_channels
    shape = (frames, channels, *compression.latent_size(*form.video_size))
    with_images = args.model_config.get("noised_image_input")
    images = torch.stack([item["mp4"][0] for item in items]) if with_images else None
    return SampleRequest([item["txt"] for item in items], images, shape, max(1, round(form.fps)), args.run.seed, decode)
