"""Which forward passes a step cache will skip: known before sampling if it depends on the timesteps alone."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from common.errors import CheckpointError
from configuration.settings import RunSettings
from diffusion_video import OFS
from network.embedding import SinusoidMLP
from network.step_cache import CachedLayers
from weights.sources import transformer_weights

PARTS = ("time_embed", "ofs_embed")


@dataclass
class SkipCounter:
    """Stands in for a network and lets a step cache decide, pass by pass; `skipped` tells for each pass what it did.

    `embed` returns a transformer's time embedding, before its SiLU, of timesteps.
    """

    embed: Any
    skipped: list[bool] = field(default_factory=list)

    def decide(self, layers: CachedLayers, timesteps: Tensor) -> None:
        """Have the layers of a forward pass decide, as they would in the network, without running them."""
        signal = self.embed(timesteps)[0]
        states = [layers.cache.decided(state, signal, layers.kept) for state in layers.states]
        self.skipped.append(all(state.residual is not None for state in states))
        layers.states = [replace(state, residual=torch.zeros(()) if state.residual is None else state.residual)
                         for state in states]


def skip_counter(run: RunSettings) -> SkipCounter | None:
    """Return a counter with the embeddings of a run's weights; None if these are not there."""
    try:
        weights = transformer_weights(run.weights).lazily()
    except CheckpointError:
        return None
    parts = [_embedding(part, weights, run.dtype) for part in PARTS]

    def embed(timesteps: Tensor) -> Tensor:
        time, ofs = parts
        assert time is not None
        found = time(timesteps[:1])
        return found if ofs is None else found + ofs(torch.full((1,), OFS))

    return SkipCounter(torch.no_grad()(embed))


def _embedding(part: str, weights: Mapping[str, Tensor], dtype: torch.dtype) -> SinusoidMLP | None:
    own = {name.removeprefix(f"{part}."): weights[name] for name in weights if name.startswith(f"{part}.")}
    if not own:
        return None
    out_dim, dim = own["0.weight"].shape
    module = SinusoidMLP(dim, out_dim)
    module.load_state_dict(own)
    return module.to(dtype)


def told(skipped: Sequence[bool]) -> str:
    """Return the passes that are skipped, as a count and ranges, numbered from 1."""
    numbers = [i for i, skip in enumerate(skipped, 1) if skip]
    if not numbers:
        return f"none of {len(skipped)} forward passes skips its layers"
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    listed = ", ".join("-".join(map(str, one)) for one in ranges)
    return f"{len(numbers)} of {len(skipped)} forward passes skip their layers: {listed}"
