"""Batches of training clips by number, each from one bucket, and the order of the numbers."""
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.seeds import generator_for
from training.data.latent_cache import CachedLatents
from training.data.reading import Reader
from vae_modules.regularizers import DiagonalGaussian


class Batches(Protocol):
    """Clips of one size and length that the engine's training step takes."""

    def __len__(self) -> int: ...

    def prepare(self, index: Tensor) -> None:
        """Announces the batch that will be asked for next."""

    def batch(self, index: Tensor) -> dict: ...


class ClipOrder:
    """An endless sequence of clip numbers, shuffled anew each epoch, that depends on the seed alone.

    Positions count from the start of training, so a resumed run, or one on another number of processes, goes on with
    the clips that an uninterrupted one would see.
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
    """Which clips of which bucket make up each batch of a run; depends on the seed alone.

    Buckets (of `sizes` clips) come as often as their clips are, in an order shuffled anew each epoch; within each the
    clips follow its own `ClipOrder`. The last batch of a bucket's epoch is filled from its next.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int):
        self.batch_size = batch_size
        self.clips = [ClipOrder(size, seed) for size in sizes]
        self.batches = torch.tensor([-(-size // batch_size) for size in sizes])  # of each bucket in an epoch
        self.decks = ClipOrder(int(self.batches.sum()), seed, "buckets")

    def batch(self, number: int) -> tuple[int, Tensor]:
        """The bucket of a batch and the numbers (n,) of its clips therein."""
        epoch, position = divmod(number, self.decks.count)
        owner = torch.repeat_interleave(torch.arange(len(self.batches)), self.batches)  # of each batch of an epoch
        deck = owner[self.decks.epoch(epoch)]
        bucket = int(deck[position])
        before = epoch * int(self.batches[bucket]) + int((deck[:position] == bucket).sum())
        return bucket, self.clips[bucket].take(before * self.batch_size, self.batch_size)

    def in_order(self, number: int) -> tuple[int, Tensor]:
        """The same without any shuffling, buckets taking turns: for validation."""
        turn, bucket = divmod(number, len(self.clips))
        index = torch.arange(turn * self.batch_size, (turn + 1) * self.batch_size)
        return bucket, index % self.clips[bucket].count


class CachedClips:
    """Draws from the cached posteriors, with torch's global random state."""

    def __init__(self, latents: CachedLatents, input_key: str):
        self.latents, self.input_key = latents, input_key

    def __len__(self) -> int:
        return len(self.latents.captions)

    def prepare(self, index: Tensor) -> None:
        """Nothing to do: the files are mapped."""

    def batch(self, index: Tensor) -> dict:
        """Latents (B, t, C, h, w), captions, and for image-to-video `image_latents` (B, 1, C, h, w)."""
        batch = {self.input_key: _draw(self.latents.moments.take(index)).transpose(1, 2),
                 "txt": [self.latents.captions[i] for i in index.tolist()]}
        if self.latents.images is not None:
            variants = self.latents.images.take(index)
            chosen = torch.randint(variants.shape[1], (len(index),))
            batch["image_latents"] = _draw(variants[torch.arange(len(index)), chosen])[:, None]
        return batch


def _draw(moments: Tensor) -> Tensor:
    return DiagonalGaussian.from_moments(moments.float()).sample()


class LiveClips:
    """Clips read from their files for every batch, ahead of it where there are `workers`; the engine encodes them."""

    def __init__(self, dataset: Dataset, workers: int = 0):
        self.reader = Reader(dataset, workers)

    def __len__(self) -> int:
        return len(self.reader.dataset)

    def prepare(self, index: Tensor) -> None:
        self.reader.prepare(index.tolist())

    def batch(self, index: Tensor) -> dict:
        items = self.reader.take(index.tolist())
        return {key: torch.stack([item[key] for item in items]) if isinstance(items[0][key], Tensor) else
                [item[key] for item in items] for key in items[0]}
