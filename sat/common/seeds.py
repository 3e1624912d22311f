"""Random numbers that depend only on what they are for."""
import hashlib

import torch


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of `key`, such as (seed, prompt index, sample index).

    Neighbouring keys give unrelated streams, and the stream is the same on every device.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def seed_everywhere(*key: int | str) -> None:
    """Sets torch's global random state by the same hash, for draws that take no generator."""
    torch.manual_seed(generator_for(*key).initial_seed())
