"""The text embeddings of distinct captions, computed once, in a cache folder of their own."""
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.data.cache_files import Part, completed
from training.data.encoders import Encoders

CAPTIONS_AT_A_TIME = 8


def cached_text(folder: Path, captions: Sequence[str], encoders: Encoders, number: int) -> dict[str, Tensor]:
    """Return each caption's text embedding (N, width) by `emb_models[number]`, memory-mapped from `folder`.

    Creates or completes the cache first; a complete one does not build the text encoder. Raises DataError for a cache
    of another text encoder.
    """
    texts = {hashlib.sha256(caption.encode()).hexdigest(): caption for caption in captions}

    @torch.no_grad()
    def encode(keys: Sequence[str]) -> tuple[list[str], Tensor]:
        embedder = encoders.conditioner.embedders[number]
        chunks = [keys[i:i + CAPTIONS_AT_A_TIME] for i in range(0, len(keys), CAPTIONS_AT_A_TIME)]
        return list(keys), torch.cat([embedder([texts[key] for key in chunk]).cpu() for chunk in chunks])

    part = Part(f"text{number or ''}", "embeddings", encoders.describe_text(number), encode)
    stored = completed(folder, part, list(texts))
    return {caption: stored[key] for key, caption in texts.items()}
