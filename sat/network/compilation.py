"""Compilation of the transformer by torch.compile: whole, by layer, with graphs of the device, or for all sizes."""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from configuration.model import MAX, REGIONAL

SIZES = (0, 1, 3, 4)  # the axes of latents (B, T, C, H, W) that differ from video to video


class CompiledNetwork:
    """Base, beside nn.Module, of a network that is compiled as `model.compile_model` says; its keys stay the same."""

    compile: Callable[..., None]
    compile_layers: Callable[..., None]
    _with_graphs = _for_all_sizes = False

    def compile_as(self, how: bool | str, dynamic: bool = False, backend: str = "inductor") -> None:
        """Compile the network as `model.compile_model` and `model.compile_dynamic` say; False compiles nothing."""
        self._with_graphs, self._for_all_sizes = how == MAX, dynamic
        if how == REGIONAL:
            self.compile_layers(backend=backend, dynamic=dynamic or None)
        elif how == MAX:
            self.compile(backend=backend, dynamic=False, mode="max-autotune")
        elif how:
            self.compile(backend=backend, dynamic=dynamic or None)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the network, compiled if it was.

        A graph of the device writes its output where the one before lies, which a sampler may still need; so the output
        is copied. The copy also ends the use of the graph's own memory, which torch needs to know.
        """
        if self._for_all_sizes:
            for axis in SIZES:  # else sizes that happen to be equal at first would be taken to be equal always
                torch._dynamo.maybe_mark_dynamic(x, axis)
        out = super().__call__(x, *args, **kwargs)  # type: ignore[misc]
        return out.clone() if self._with_graphs else out


def has_graphs(device: torch.device) -> bool:
    """Return True if torch can record a device's kernels as a graph, as on NVIDIA's and AMD's accelerators."""
    return device.type != "cpu" and hasattr(torch.get_device_module(device), "graph_pool_handle")
