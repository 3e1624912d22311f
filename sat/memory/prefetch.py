"""Weights of layers that are copied to the device ahead of their use, on a stream of their own.

While a layer computes, the weights of the next two are copied. Events order the two streams: a layer computes after its
copy has arrived, and a copy goes into a buffer after the layer that used it has computed. So buffers are used again and
again, and the CPU waits for neither.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LAYERS_AHEAD = 2


class Copies(NamedTuple):
    """Tensors on the device, and the event after which they hold what was copied to them."""

    buffers: list[Tensor]
    arrived: torch.Event


class Layer(Protocol):
    """A layer whose weights are on the CPU, on their way to the device, or there."""

    def bring(self) -> None:
        """Have the weights on the device for what is queued from now on."""

    def fetch(self) -> None:
        """Start copying the weights, unless they are on their way or there."""

    def leave(self) -> None:
        """Give back the buffers of weights that are on their way, unless the layer computes with them."""


class CopyStream:
    """A stream of a device for copies of weights, and the buffers that they go to, by shape and dtype.

    Buffers are allocated for the stream that computes, so what is freed is not reused before that one is done with it.
    """

    def __init__(self, device: torch.device, stream: torch.Stream):
        self.device = device
        self._stream = stream
        self._free: dict[tuple, list[tuple[Tensor, torch.Event]]] = {}

    def start(self, weights: Sequence[Tensor]) -> Copies:
        """Start to copy weights from pinned memory; return where they will be."""
        buffers = [self._buffer(weight) for weight in weights]
        with self._stream:
            for buffer, weight in zip(buffers, weights, strict=True):
                buffer.copy_(weight, non_blocking=True)
        return Copies(buffers, self._stream.record_event())

    def wait(self, copies: Copies) -> None:
        """Let what is queued to compute from now on run after the copies have arrived."""
        computing(self.device).wait_event(copies.arrived)

    def give_back(self, copies: Copies) -> None:
        """Let the buffers be used again, after what has been queued to compute until now."""
        self.wait(copies)  # they may not have been used at all
        used = computing(self.device).record_event()
        for buffer in copies.buffers:
            self._free.setdefault(_kind(buffer), []).append((buffer, used))

    def clear(self) -> None:
        """Free the buffers that nothing uses."""
        self._free.clear()

    def _buffer(self, weight: Tensor) -> Tensor:
        """Return a buffer for a weight, which may be written by what is queued to copy from now on."""
        free = self._free.get(_kind(weight))
        if free:
            buffer, unused = free.pop(0)
        else:  # new memory may be that of a tensor which queued work still uses
            buffer = torch.empty_like(weight, device=self.device)
            unused = computing(self.device).record_event()
        self._stream.wait_event(unused)
        return buffer


@dataclass
class Course:
    """The order in which layers are called, learned from their calls; those that come next are copied ahead."""

    line: CopyStream

    def __post_init__(self):
        self._next: dict[Layer, Layer] = {}  # the layer that was called after another the last time
        self._last: Layer | None = None
        self._ahead: list[Layer] = []

    def call(self, layer: Layer) -> None:
        """Have a layer's weights on the device, and start to copy those of the two that followed it the last time."""
        if self._last is not None:
            self._next[self._last] = layer
        self._last = layer
        layer.bring()
        before, self._ahead = self._ahead, self._after(layer)
        for other in before:  # which were expected and did not come
            if other is not layer and other not in self._ahead:
                other.leave()
        for other in self._ahead:
            other.fetch()

    def stop(self) -> None:
        """Free the weights that were copied ahead, and all buffers; another part computes now."""
        for other in self._ahead:
            other.leave()
        self._ahead, self._last = [], None
        self.line.clear()

    def _after(self, layer: Layer) -> list[Layer]:
        found: list[Layer] = []
        while len(found) < LAYERS_AHEAD and (following := self._next.get(found[-1] if found else layer)) is not None:
            found.append(following)
        return found


def copy_stream(device: torch.device) -> CopyStream | None:
    """Return a stream of a device for copies; None if it has no streams."""
    stream = new_stream(device)
    return None if stream is None else CopyStream(device, stream)


def new_stream(device: torch.device) -> torch.Stream | None:
    """Return a new stream of a device; None if it has none, as a CPU."""
    if device.type == "cpu":
        return None
    try:
        computing(device)
        return torch.Stream(device)
    except (NotImplementedError, RuntimeError):
        return None


def computing(device: torch.device) -> torch.Stream:
    """Return the stream of a device on which layers compute."""
    return torch.accelerator.current_stream(device)


def _kind(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype
