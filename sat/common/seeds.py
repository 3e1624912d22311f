"""Random number generators whose seeds depend only on their purpose."""
import hashlib

import torch


def generator_for(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by a hash of `key`, such as (seed, prompt index, sample index).

    Similar keys give unrelated streams, and a stream is the same whatever the device in use.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def seed_everywhere(*key: int | str) -> None:
    """Seed torch's global random state by the same hash, for draws that take no generator."""
    torch.manual_seed(generator_for(*key).initial_seed())
