"""Decoding of one video by several processes, split in time; the result is that of one process.

Chunks are dealt out in rounds, one to each process. A chunk needs from the one before only the last input frames of
every convolution. A process sends these on as soon as it has them, so that all processes work at once, each one layer
behind the process before it.
"""
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import ConfigError
from parallel import groups
from vae_modules.convolution import CausalState
from vae_modules.memory_order import in_memory_order


class RelayedState(CausalState):
    """A CausalState that receives frames from the rank with the chunk before and sends them to that with the one after.

    These ranks are `source` and `target`. Without a `source`, frames come from `before`, left by the round before.
    Frames for the next round stay in `after`.
    """

    def __init__(self, before: dict[nn.Module, Tensor], source: int | None, target: int | None):
        super().__init__(before)
        self.leading = self.leading and source is None
        self._source, self._target = source, target
        self._sent: list[tuple[Any, Tensor]] = []

    def take(self, layer: nn.Module, like: Tensor) -> Tensor:
        if self._source is None:
            return super().take(layer, like)
        return _received(like, self._source)

    def pass_on(self, frames: Tensor) -> None:
        if self._target is not None:
            frames = frames.clone(memory_format=torch.contiguous_format)  # the layer may write over them
            self._sent.append((dist.isend(frames, self._target), frames))

    def wait(self) -> None:
        """Wait until all frames that were sent have arrived."""
        for work, _ in self._sent:
            work.wait()


def decode_parallel(decoder: nn.Module, chunks: Sequence[Tensor], processes: int) -> Iterator[Tensor]:
    """Yield the frames of every chunk in order, on every process of the context group; all must iterate.

    Raises ConfigError if the group does not have that many processes.
    """
    group, ranks = groups.context_group()
    if len(ranks) != processes:
        raise ConfigError(f"cp_size is {processes}, but {len(ranks)} process(es) share a video; start that many with "
                          "torchrun")
    place = ranks.index(dist.get_rank())
    left: dict[nn.Module, Tensor] = {}
    for start in range(0, len(chunks), processes):
        now = chunks[start:start + processes]
        frames = None
        if place < len(now):
            past = RelayedState(left if place == 0 else {}, ranks[place - 1] if place else None,
                               ranks[place + 1] if place + 1 < len(now) else None)
            frames = decoder(now[place], past).contiguous()
            past.wait()
            left = past.after
        for owner, chunk in enumerate(now):
            whole = frames
            if whole is None or owner != place:
                whole = _frames_like(chunk, decoder, opening=start + owner == 0)
            dist.broadcast(whole, ranks[owner], group=group)
            yield whole
        if start + processes < len(chunks):
            _hand_over(left, ranks, place)


def _received(like: Tensor, source: int) -> Tensor:
    frames = torch.empty_like(like, memory_format=torch.contiguous_format)
    dist.recv(frames, source)
    return in_memory_order(frames)  # as if computed here, so that the same kernels give bitwise equal results


def _frames_like(chunk: Tensor, decoder: Any, opening: bool) -> Tensor:
    batch, _, time, height, width = chunk.shape
    compression = decoder.compression
    frames = compression.video_frames(time) if opening else compression.time * time
    return chunk.new_empty(batch, decoder.conv_out.conv.out_channels, frames, *compression.video_size(height, width))


def _hand_over(left: dict[nn.Module, Tensor], ranks: Sequence[int], place: int) -> None:
    """Send the state that a round's last chunk left to the process that has the next round's first chunk."""
    if place == len(ranks) - 1:
        for frames in left.values():
            dist.send(frames.contiguous(), ranks[0])
    elif place == 0:
        for layer, frames in left.items():  # its own chunk's state has the same layers and sizes
            left[layer] = _received(frames, ranks[-1])
