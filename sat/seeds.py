"""Random numbers that depend only on what they are for."""
import hashlib

import torch


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of `key`, such as (seed, prompt index, sample index).

    Neighbouring keys give unrelated streams, and the stream is the same on every device.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
