"""Captions embedded once: each distinct one of a folder, in the part `text` of its cache."""
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
    """The embedding (N, width) by `emb_models[number]` of each caption, memory-mapped from `folder`.

    First made or completed with the embedder, which a complete cache does not build. Raises DataError for a cache of
    other captions or another embedder.
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
    """Stands in a conditioner for an embedder whose work is done: looks each caption up in `known`."""

    def __init__(self):
        super().__init__()
        self.known: Mapping[str, Tensor] = {}
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows the model's device and dtype

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.known[text] for text in texts]).to(self.place)
