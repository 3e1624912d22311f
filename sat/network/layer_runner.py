"""The protocol of whatever runs the transformer's layers, and the plain way to do it."""
from typing import Any, Protocol

from torch import Tensor

from network.context import VideoContext


class LayerRunner(Protocol):
    """Runs all layers of a DiffusionTransformer: in order, through a step cache, or divided among processes."""

    def __call__(self, network: Any, x: Tensor, context: VideoContext) -> Tensor:
        """Return the video tokens (B, t·h·w, D) after the last layer, for tokens x (B, S, D)."""


class AllLayers:
    """Runs every layer in this process."""

    def __call__(self, network: Any, x: Tensor, context: VideoContext) -> Tensor:
        return network.transformer.run_layers(x, context)
