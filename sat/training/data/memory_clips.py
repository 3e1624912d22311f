"""Clips held in memory as bytes, and the stages in which the autoencoder's training takes batches of them."""
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.compression import COGVIDEOX
from common.errors import ConfigError
from common.kinds import Positive, Size, Steps
from common.typed import Fields, checked
from configuration.targets import get_obj_from_str
from configuration.yaml_files import plain
from data_video import SFTDataset, clip_forms_of
from dry_run.memory import free_memory
from training.data.marks import mark


@dataclass(frozen=True)
class MemoryClips:
    """Clips in memory as bytes, `videos` (N, 3, T, H, W); meant for small data sets."""

    videos: Tensor

    @classmethod
    def read(cls, folders: Sequence[Sequence[SFTDataset]]) -> "MemoryClips":
        """Return all clips of folders, each given by its buckets. Raises ConfigError if they do not fit in memory."""
        buckets = [bucket for folder in folders for bucket in folder]
        form, count = buckets[0].form, sum(map(len, buckets))
        shape = (count, 3, form.max_num_frames, *form.video_size)
        needed, free = math.prod(shape), free_memory(torch.device("cpu"))
        if needed > free:
            raise ConfigError(f"{count} clips of {form.max_num_frames} frames take {needed / 1e9:.1f} GB, and the "
                              f"machine has {free / 1e9:.1f} GB of memory free; train_vae.py holds all clips there, so "
                              "give fewer, shorter or smaller ones")
        videos = torch.empty(shape, dtype=torch.uint8)
        clips = (bucket[number]["mp4"] for bucket in buckets for number in range(len(bucket)))
        for number, clip in enumerate(clips):
            videos[number] = ((clip.transpose(0, 1) + 1) * 127.5).round()
        return cls(videos)

    def __len__(self) -> int:
        return len(self.videos)

    @cached_property
    def marks(self) -> list[str]:
        return [mark(f"number {number}", "content", hashlib.sha256(video.contiguous().numpy()).hexdigest())
                for number, video in enumerate(self.videos, 1)]

    @property
    def frames(self) -> int:
        return self.videos.shape[2]

    def batch(self, index: Tensor, start: int, frames: int) -> Tensor:
        """Return `frames` frames from `start` on of the clips in `index`, (B, 3, frames, H, W) in [-1, 1]."""
        return self.videos[index, :, start:start + frames].float() / 127.5 - 1

    def draw(self, batch_size: int, frames: int, generator: torch.Generator) -> Tensor:
        """Return a random batch: clips drawn with replacement, all from the same frame on."""
        index = torch.randint(len(self), (batch_size,), generator=generator)
        start = int(torch.randint(self.frames - frames + 1, (), generator=generator))
        return self.batch(index, start, frames)


@dataclass(frozen=True)
class Stage:
    """A stage of training, with batches of one size."""

    iters: Positive
    frames: Size
    batch_size: Steps


def read_buckets(data_config: DictConfig, folders: Sequence[str] | None) -> list[list[SFTDataset]]:
    """Return the buckets of each folder; captions play no part, and what is repeated in short clips counts."""
    kind: Any = get_obj_from_str(data_config.target, "data")
    params = {**data_config.params, "allow_no_captions": True}
    if params.get("short_clips") != "skip":
        params["short_clips"] = "repeat"  # the loss of a reconstruction has no mask
    return [kind.buckets(folder, **params) for folder in folders or ()]


def read_stages(data_config: DictConfig) -> list[Stage]:
    """Return the stages of section `data`; raises ConfigError if clips have several sizes or do not fill a stage."""
    forms = clip_forms_of(data_config.params)
    if len(forms) > 1:
        raise ConfigError("data.params: the autoencoder trains on clips of one size and length; give one video_size "
                          "and one max_num_frames")
    given = checked(list | None, plain(data_config).get("stages"), "data.stages") or ()
    stages = [Stage(**checked(Annotated[Mapping, Fields(Stage)], stage, f"data.stages[{number}]"))
              for number, stage in enumerate(given)]
    longest = forms[0].max_num_frames
    for number, stage in enumerate(stages):
        if stage.frames > longest or not COGVIDEOX.has_length(stage.frames):
            raise ConfigError(f"data.stages[{number}].frames is {stage.frames}; it must be 4k + 1, and at most "
                              f"data.params.max_num_frames, {longest}")
    return stages


def batches_of(data_config: DictConfig) -> list[tuple[int, ...]]:
    """Return the shapes (B, 3, T, H, W) of the batches of all stages, each once."""
    height, width = clip_forms_of(data_config.params)[0].video_size
    return sorted({(stage.batch_size, 3, stage.frames, height, width) for stage in read_stages(data_config)})


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Return the stage of the step that follows `step` steps."""
    for stage in stages:
        if step < stage.iters:
            return stage
        step -= stage.iters
    return stages[-1]
