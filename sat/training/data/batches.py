"""Batches of training clips, each from one bucket, and the order in which clips are used."""
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from common.compression import Compression
from common.seeds import generator_for
from training.data.latent_cache import CachedClip
from training.data.reading import Reader
from vae_modules.regularizers import DiagonalGaussian


class Batches(Protocol):
    """One bucket: clips of one size and length, as batches for the engine's training step."""

    def __len__(self) -> int: ...

    def prepare(self, index: Tensor) -> None:
        """Announce the batch that will be requested next, so that it can be read ahead."""

    def batch(self, index: Tensor) -> dict: ...

    @property
    def marks(self) -> Sequence[str]:
        """The marks of the clips, see `training.data.marks`."""


class ClipOrder:
    """An endless sequence of clip numbers, reshuffled each epoch, that depends only on the seed.

    Positions count from the start of training, so a run that is resumed, or has another world size, sees the same clips
    as an uninterrupted one.
    """

    def __init__(self, count: int, seed: int, name: str = "order"):
        self.count, self.seed, self.name = count, seed, name
        self._epochs: dict[int, Tensor] = {}

    def take(self, start: int, count: int) -> Tensor:
        positions = range(start, start + count)
        return torch.stack([self.epoch(p // self.count)[p % self.count] for p in positions])

    def epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {e: order for e, order in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self.count, generator=generator_for(self.seed, self.name, epoch))
        return self._epochs[epoch]


class BatchOrder:
    """The bucket and the clips of each batch of a run; depends only on the seed.

    Each epoch holds ceil(size / batch_size) batches of every bucket (of `sizes` clips), in an order that is reshuffled
    each epoch. Within a bucket, clips follow its own `ClipOrder`; the last batch of an epoch is filled up with clips of
    the bucket's next epoch.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int):
        self.batch_size = batch_size
        self.clips = [ClipOrder(size, seed) for size in sizes]
        self.batches = torch.tensor([-(-size // batch_size) for size in sizes])  # per bucket in one epoch
        self.decks = ClipOrder(int(self.batches.sum()), seed, "buckets")

    def batch(self, number: int) -> tuple[int, Tensor]:
        """Return a batch's bucket, and the numbers (batch_size,) of its clips within the bucket."""
        epoch, position = divmod(number, self.decks.count)
        owner = torch.repeat_interleave(torch.arange(len(self.batches)), self.batches)  # by batch, unshuffled
        deck = owner[self.decks.epoch(epoch)]
        bucket = int(deck[position])
        before = epoch * int(self.batches[bucket]) + int((deck[:position] == bucket).sum())
        return bucket, self.clips[bucket].take(before * self.batch_size, self.batch_size)

    def in_order(self, number: int) -> tuple[int, Tensor]:
        """Return the same without shuffling, with buckets taking turns; used in validation."""
        turn, bucket = divmod(number, len(self.clips))
        index = torch.arange(turn * self.batch_size, (turn + 1) * self.batch_size)
        return bucket, index % self.clips[bucket].count


class CachedClips:
    """A bucket of cached clips; samples latents from their posteriors with torch's global random state.

    With a `counting`, batches say which latent frames count in the loss.
    """

    def __init__(self, clips: Sequence[CachedClip], input_key: str, counting: Compression | None = None):
        self.clips, self.input_key, self.counting = clips, input_key, counting

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def marks(self) -> list[str]:
        return [clip.mark for clip in self.clips]

    def prepare(self, index: Tensor) -> None:
        """Do nothing: the files are memory-mapped."""

    def batch(self, index: Tensor) -> dict:
        """Return latents (B, t, C, h, w), captions, and for image-to-video `image_latents` (B, 1, C, h, w).

        `last_latents` of that shape, too, if the cache has last frames, and `control_latents` (B, t, C, h, w), the
        posterior's mean, if it has control clips.
        """
        clips = [self.clips[i] for i in index.tolist()]
        latents = _draw(torch.stack([clip.moments for clip in clips])).transpose(1, 2)
        batch = {self.input_key: latents, "txt": [clip.caption for clip in clips]}
        for key, frames in (("image_latents", [clip.image for clip in clips]),
                            ("last_latents", [clip.last for clip in clips])):
            if variants := [frame for frame in frames if frame is not None]:
                batch[key] = _draw(_one_each(torch.stack(variants)))[:, None]
        if controls := [clip.control for clip in clips if clip.control is not None]:
            batch["control_latents"] = _posterior(torch.stack(controls)).mean.transpose(1, 2)
        if self.counting is not None:
            batch |= _counted([clip.frames for clip in clips], latents.shape[1], self.counting)
        return batch


def _one_each(variants: Tensor) -> Tensor:
    """Return one of each clip's variants (B, variants, ...), drawn at random: (B, ...)."""
    return variants[torch.arange(len(variants)), torch.randint(variants.shape[1], (len(variants),))]


def _draw(moments: Tensor) -> Tensor:
    return _posterior(moments).sample()


def _posterior(moments: Tensor) -> DiagonalGaussian:
    return DiagonalGaussian.from_moments(moments.float())


def _counted(frames: Sequence[int], length: int, compression: Compression) -> dict[str, Tensor]:
    """Return `counted` (B, length): 1 for latent frames made of real frames alone, of which clips have `frames`.

    Returns nothing if all are real.
    """
    real = torch.tensor([compression.latent_frames(count) for count in frames])
    counted = (torch.arange(length) < real[:, None]).float()
    return {} if counted.all() else {"counted": counted}


class LiveClips:
    """A bucket of clips that are read from their files for every batch, and encoded by the engine.

    With `workers`, announced clips are read ahead in threads. With a `counting`, batches say which latent frames count
    in the loss.
    """

    def __init__(self, dataset: Any, workers: int = 0, counting: Compression | None = None,
                 marks: Sequence[str] = ()):
        self.reader, self.counting, self.marks = Reader(dataset, workers), counting, list(marks)

    def __len__(self) -> int:
        return len(self.reader.dataset)

    def prepare(self, index: Tensor) -> None:
        self.reader.prepare(index.tolist())

    def batch(self, index: Tensor) -> dict:
        items = self.reader.take(index.tolist())
        batch: dict[str, Any] = {}
        for key in items[0]:
            values = [item[key] for item in items]
            batch[key] = torch.stack(values) if isinstance(values[0], Tensor) else values
        if self.counting is not None:
            length = self.counting.latent_frames(len(items[0]["mp4"]))
            batch |= _counted([item["num_frames"] for item in items], length, self.counting)
        return batch
