"""The training data of a run: folders of clips, sorted into buckets, read from their files or from a cache."""
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import ConcatDataset

from common.compression import Compression
from common.errors import ConfigError, DataError
from common.patches import patch_grid
from common.ranks import is_main_process
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import get_obj_from_str, instantiate_from_config
from configuration.yaml_files import require
from data_video import SFTDataset, clip_forms_of
from diffusion_video import FRAME_NOISE
from engine.text_length import report_captions
from media.clips import ClipFormat
from media.controls import CONTROLS
from media.videos import check_encoder
from network.context import VideoContext
from training.data.batches import Batches, CachedClips, LiveClips
from training.data.encoders import Encoders
from training.data.folders import report_shared
from training.data.latent_cache import FrameNoise, cached_latents
from training.data.marks import mark
from training.data.text_cache import cached_text
from training.optimization import check_memory
from training.samples import SampleRequest

MEMORY, TEXT = "clips.json", "text"  # in args.latent_cache: what is known of clips' files, and the text embeddings

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
    check_memory(network, args.run.device, args.run.dtype.itemsize)
    _check_control(args.model_config.get("control_input", False), args.data_config.params.get("control"))
    compression = Compression.of_first_stage(args.model_config.first_stage_config)
    decodes = args.training.sample_interval is not None and not args.training.only_log_video_latents
    for form in clip_forms_of(args.data_config.params):
        if decodes:
            check_decodable(form, compression, "args.sample_interval")
        _check_fits(network, form, compression)


def check_decodable(form: ClipFormat, compression: Compression, key: str) -> None:
    """Raise ConfigError for clips whose latents no decoder takes: after the first it takes latent frames in pairs."""
    if compression.latent_frames(form.max_num_frames) % 2 == 0:
        step = 2 * compression.time
        raise ConfigError(f"data.params.max_num_frames is {form.max_num_frames}; {key} has videos of that length "
                          f"decoded, which takes {step}k + 1 frames, such as "
                          f"{step * (form.max_num_frames // step) + 1}; give such a length, or leave {key} out")


def check_clip_data(data: DictConfig, split: str) -> None:
    """Raise ConfigError if section `data` does not describe folders of clips that can be counted."""
    require(data, "data", "target", "params")
    require(data.params, "data.params", "video_size", "fps", "max_num_frames")
    kind = get_obj_from_str(data.target, "data")
    if not issubclass(kind, SFTDataset):
        raise ConfigError(f"data.target is {kind.__name__}; training needs data_video.SFTDataset, which knows how "
                          "many clips it has; unpack the shards into folders of videos/ and labels/")
    if "data_dir" in data.params:
        raise ConfigError("data.params.data_dir: the folders of clips are args.train_data and args.valid_data; leave "
                          "it out")
    if split.split(",")[0].strip() not in ("1", "1.0"):
        raise ConfigError(f"args.split is {split}; clips cannot be held out by fraction; put them into a folder "
                          "of their own, set args.valid_data to it, and leave args.split at 1,0,0")


def _check_control(model: bool, data: str | None) -> None:
    """Raise ConfigError if a model with control input has no control clips, or another one has."""
    if model and data is None:
        raise ConfigError("data.params.control is missing: a model with model.control_input is trained on control "
                          f"clips; set it to one of {', '.join(CONTROLS)}")
    if data is not None and not model:
        raise ConfigError(f"data.params.control is {data}, but the model takes no control clips; leave it out, or set "
                          "model.control_input to true")


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
    cache = None if args.training.latent_cache is None else Path(args.training.latent_cache)
    if cache is not None:
        _refuse_earlier(cache)
    memory = None if cache is None else cache / MEMORY
    folders = [[_buckets(args.data_config, folder, memory) for folder in given or ()]
               for given in (args.training.train_data, args.training.valid_data)]
    report_shared(*folders)
    train, valid = (list(chain.from_iterable(buckets)) for buckets in folders)
    captions = [(video.name, caption) for dataset in train + valid
                for video, caption in zip(dataset.videos, dataset.captions, strict=True)]
    if is_main_process():
        report_captions(ModelConfig.read(args.model_config), captions)
    shown = (valid or train)[0]
    if cache is None:
        return Sources(_live(args, train), _live(args, valid), shown)
    encoders = Encoders(args)
    cached = [_cached(args, cache, encoders, datasets) for datasets in (train, valid)]
    text = {number: cached_text(cache / TEXT, [caption for _, caption in captions], encoders, number)
            for number in encoders.frozen_text()}
    return Sources(cached[0], cached[1], shown, text)


def _refuse_earlier(cache: Path) -> None:
    """Raise DataError for a cache of an earlier version, in which clips were known by their number alone."""
    if (cache / "train-0").is_dir():
        raise DataError(f"cache {cache} is of an earlier version, which did not store which clip a latent is of; "
                        "delete the folder, or set args.latent_cache to another one")


def _buckets(data: DictConfig, folder: str, memory: Path | None) -> list[SFTDataset]:
    kind: Any = get_obj_from_str(data.target, "data")
    return kind.buckets(folder, memory, **data.params)


def _live(args: Arguments, found: Sequence[SFTDataset]) -> list[Batches]:
    return [LiveClips(ConcatDataset(datasets), args.training.num_workers, _counting(args, datasets),
                      [name for dataset in datasets for name in _marks(dataset)])
            for datasets in _by_form(found).values()]


def _marks(dataset: SFTDataset) -> list[str]:
    """Return marks of clips by name, size and caption, since nothing has read all of their bytes."""
    controls = [[file.stat().st_size] for file in dataset.controls] or [[]] * len(dataset)
    return [mark(video.name, "file", video.name, video.stat().st_size, *control, caption)
            for video, control, caption in zip(dataset.videos, controls, dataset.captions, strict=True)]


def _by_form(found: Sequence[SFTDataset]) -> dict[ClipFormat, list[SFTDataset]]:
    forms: dict[ClipFormat, list[SFTDataset]] = {}
    for dataset in found:
        forms.setdefault(dataset.form, []).append(dataset)
    return forms


def _counting(args: Arguments, datasets: Sequence[SFTDataset]) -> Compression | None:
    """Return the autoencoder's compression if the repeated frames of short clips do not count in the loss."""
    if datasets[0].short_clips != "mask":
        return None
    return Compression.of_first_stage(args.model_config.first_stage_config)


def _cached(args: Arguments, cache: Path, encoders: Encoders, found: Sequence[SFTDataset]) -> list[Batches]:
    """Return the cached buckets of all folders. Raises DataError if no clip of a bucket can be read."""
    settings, noises = args.training, []
    if args.model_config.get("noised_image_input"):
        frames = (False, True) if settings.last_frame_rate else (False,)
        noises = [FrameNoise(*FRAME_NOISE, settings.first_frame_variants, args.run.seed, last) for last in frames]
    buckets: list[Batches] = []
    for form, datasets in _by_form(found).items():
        clips = [clip for dataset in datasets for clip in cached_latents(cache / form.name, dataset, encoders, noises,
                                                                         args.training.num_workers)]
        if clips:
            buckets.append(CachedClips(clips, args.model_config.get("input_key", "mp4"),
                                       _counting(args, datasets)))
    if found and not buckets:
        raise DataError(f"cache {cache} is empty because no clip could be read; replace the clips")
    return buckets


def sample_request(args: Arguments, dataset: SFTDataset) -> SampleRequest | None:
    """Return a request for samples with what clips spread evenly over the data set have.

    That is their captions, and first frames or control clips if the model takes them. Returns None without
    `args.sample_interval`.
    """
    if not args.training.sample_interval:
        return None
    decode = not args.training.only_log_video_latents
    if decode:
        check_encoder()
    count = min(args.training.sample_count, len(dataset))
    shown = [i * len(dataset) // count for i in range(count)]
    form = dataset.form
    compression = Compression.of_first_stage(args.model_config.first_stage_config)
    frames, channels = compression.latent_frames(form.max_num_frames), args.sampling.latent_channels
    shape = (frames, channels, *compression.latent_size(*form.video_size))
    captions, images, controls = [dataset.captions[i] for i in shown], None, None
    if args.model_config.get("noised_image_input"):  # of each clip, only its first frame is kept
        found = [(item["txt"], item["mp4"][0].clone()) for item in (dataset[i] for i in shown)]
        captions, images = [caption for caption, _ in found], torch.stack([image for _, image in found])
    elif args.model_config.get("control_input"):
        items = [dataset[i] for i in shown]
        captions, controls = [item["txt"] for item in items], torch.stack([item["control"] for item in items])
    return SampleRequest(captions, images, shape, max(1, round(form.fps)), args.run.seed, decode, controls)
