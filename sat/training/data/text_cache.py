"""The text embeddings of a folder's distinct captions, computed once, in the part `text` of its cache."""
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.text_encoder import AbstractEmbModel
from training.data.cache_files import Part, completed
from training.data.encoders import Encoders

CAPTIONS_AT_A_TIME = 8


def cached_text(folder: Path, captions: Sequence[str], encoders: Encoders, number: int) -> dict[str, Tensor]:
    """Return each caption's text embedding (N, width) by `emb_models[number]`, memory-mapped from `folder`.

    Creates or completes the cache first; a complete one does not build the text encoder. Raises DataError for a cache
    of other captions or another text encoder.
    """
    distinct = list(dict.fromkeys(captions))

    @torch.no_grad()
    def encode(numbers: Sequence[int]) -> tuple[list[int], Tensor]:
        embedder = encoders.conditioner.embedders[number]
        chunks = [numbers[i:i + CAPTIONS_AT_A_TIME] for i in range(0, len(numbers), CAPTIONS_AT_A_TIME)]
        return list(numbers), torch.cat([embedder([distinct[n] for n in chunk]).cpu() for chunk in chunks])

    digest = hashlib.sha256("\n".join(distinct).encode()).hexdigest()
    description = encoders.describe_text(number) | {"captions": digest}
    rows, index = completed(folder, Part(f"text{number or ''}", "embeddings", description, len(distinct), encode))
    return {distinct[i]: rows.row(position) for position, i in enumerate(index)}


class EmbeddedText(AbstractEmbModel):
    """A replacement for a text encoder in a conditioner; looks up each caption's text embedding in `known`."""

    def __init__(self):
        super().__init__()
        self.known: Mapping[str, Tensor] = {}
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows the model's device and dtype

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.known[text] for text in texts]).to(self.place)
