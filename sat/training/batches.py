"""Batches of training clips by number, and the order of the numbers."""
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from seeds import generator_for
from sgm.encoders import AbstractEmbModel
from training.latent_cache import CachedLatents
from vae_modules.regularizers import DiagonalGaussian


class Batches(Protocol):
    """Clips that the engine's training step takes."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> dict: ...


class ClipOrder:
    """An endless sequence of clip numbers, shuffled anew each epoch, that depends on the seed alone.

    Positions count from the start of training, so a resumed run, or one on another number of processes, goes on with
    the clips that an uninterrupted one would see.
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epochs: dict[int, Tensor] = {}

    def take(self, start: int, count: int) -> Tensor:
        positions = range(start, start + count)
        return torch.stack([self._epoch(p // self.count)[p % self.count] for p in positions])

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._epochs = {e: order for e, order in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self.count, generator=generator_for(self.seed, "order", epoch))
        return self._epochs[epoch]


class CachedClips:
    """Draws from the cached posteriors, with torch's global random state."""

    def __init__(self, latents: CachedLatents, input_key: str):
        self.latents, self.input_key = latents, input_key

    def __len__(self) -> int:
        return len(self.latents.captions)

    def batch(self, index: Tensor) -> dict:
        """Latents (B, t, C, h, w), captions, and for image-to-video `image_latents` (B, 1, C, h, w)."""
        batch = {self.input_key: _draw(self.latents.moments[index]).transpose(1, 2),
                 "txt": [self.latents.captions[i] for i in index.tolist()]}
        if self.latents.images is not None:
            variant = torch.randint(self.latents.images.shape[1], (len(index),))
            batch["image_latents"] = _draw(self.latents.images[index, variant])[:, None]
        return batch


def _draw(moments: Tensor) -> Tensor:
    return DiagonalGaussian.from_moments(moments.float()).sample()


class LiveClips:
    """Clips read from their files for every batch; the engine encodes them."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor) -> dict:
        items = [self.dataset[i] for i in index.tolist()]
        return {key: torch.stack([item[key] for item in items]) if isinstance(items[0][key], Tensor) else
                [item[key] for item in items] for key in items[0]}


class RememberedText(AbstractEmbModel):
    """Embeds each distinct text once. For embedders that are not trained."""

    def __init__(self, embedder: AbstractEmbModel):
        super().__init__()
        self.embedder = embedder
        self.ucg_rate, self.input_key = embedder.ucg_rate, embedder.input_key
        self._rows: dict[str, int] = {}
        self._table: Tensor | None = None

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            embedded = self.embedder(new)
            self._rows |= {text: len(self._rows) + i for i, text in enumerate(new)}
            self._table = embedded if self._table is None else torch.cat((self._table, embedded))
        return self._table[[self._rows[text] for text in texts]]


def remember_text(embedders) -> None:
    """Wraps the frozen text embedders of a conditioner in place."""
    for i, embedder in enumerate(embedders):
        if not embedder.is_trainable and embedder.input_key == "txt":
            embedders[i] = RememberedText(embedder)

