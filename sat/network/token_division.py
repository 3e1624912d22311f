"""Forward pass with its tokens divided among processes (DeepSpeed Ulysses, Jacobs et al. 2023, section 3.1).

Each process holds a share of the text and video tokens, or during attention all tokens of a share of the heads; an
all-to-all exchange turns one into the other. Results equal those of one process up to rounding.

Shapes: B batch, N text and V video tokens, P processes, h heads, d head dim, D hidden size. All shares have the same
length, n = ceil(N / P) and v = ceil(V / P); the last ones are padded with zeros, which no token attends to.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from common.errors import ConfigError
from network.attention import attention
from network.context import VideoContext


@dataclass(frozen=True)
class Division:
    """The division of N + V tokens (`text`, `video`) among the processes of a group with these global ranks."""

    group: dist.ProcessGroup | None
    ranks: Sequence[int]
    text: int
    video: int

    @property
    def size(self) -> int:
        return len(self.ranks)

    def share(self, x: Tensor) -> Tensor:
        """Return this process's share (B, ceil(tokens / P), ...) of text or video tokens (B, tokens, ...)."""
        length = -(-x.shape[1] // self.size)
        start = self.ranks.index(dist.get_rank()) * length
        share = x[:, start:start + length]
        return F.pad(share, (0, 0) * (x.dim() - 2) + (0, length - share.shape[1]))

    def own(self, x: Tensor) -> Tensor:
        """Return this process's share (B, n + v, ...) of all tokens (B, N + V, ...)."""
        return torch.cat([self.share(part) for part in x.split((self.text, self.video), dim=1)], dim=1)

    def whole_video(self, share: Tensor) -> Tensor:
        """Return all video tokens (B, V, D), gathered from every process's share (B, v, D)."""
        shares = [torch.empty_like(share) for _ in self.ranks]
        dist.all_gather(shares, share.contiguous(), group=self.group)
        return torch.cat(shares, dim=1)[:, :self.video]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
        """Return `attention.attention` over all tokens, for this process's share of the queries.

        Shares of queries (B, h, n + v or v, d), keys and values (B, h, n + v, d). Raises ConfigError if the number of
        processes does not divide the heads.
        """
        if q.shape[1] % self.size:
            raise ConfigError(f"sequence_parallel_size {self.size} does not divide the {q.shape[1]} attention heads")
        tokens = self._places(self.text, q.device)
        asking = tokens if q.shape[2] == k.shape[2] else self._places(0, q.device)
        out = attention(self._by_heads(q, asking), self._by_heads(k, tokens), self._by_heads(v, tokens), dropout)
        return self._by_tokens(out, asking, q.shape[2])

    def _places(self, text: int, device: torch.device) -> Tensor:
        """Return the index of each token [text, video] in the concatenation of all shares."""
        n, v = (-(-count // self.size) for count in (text, self.video))
        text_tokens, video_tokens = torch.arange(text, device=device), torch.arange(self.video, device=device)
        return torch.cat((text_tokens // max(n, 1) * (n + v) + text_tokens % max(n, 1),
                          video_tokens // v * (n + v) + n + video_tokens % v))

    def _by_heads(self, x: Tensor, places: Tensor) -> Tensor:
        """Exchange a share of all heads' tokens (B, h, share, d) for all tokens of some heads (B, h / P, tokens, d)."""
        shares = self._exchange(x.unflatten(1, (self.size, -1)).transpose(0, 1))
        return shares.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, places]

    def _by_tokens(self, x: Tensor, places: Tensor, share: int) -> Tensor:
        """Exchange all tokens of some heads (B, tokens, h / P · d) for a share of all heads' (B, share, h · d)."""
        padded = x.new_zeros(len(x), self.size * share, x.shape[2])
        padded[:, places] = x
        return self._exchange(padded.unflatten(1, (self.size, share)).transpose(0, 1)).permute(1, 2, 0, 3).flatten(2)

    def _exchange(self, parts: Tensor) -> Tensor:
        """Send part i of (P, ...) to process i; return (P, ...), whose part i is from process i."""
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self.group)
        return received


@dataclass(frozen=True)
class DividedLayers:
    """Layer runner of a group of processes, each of which takes its share of the tokens through all layers."""

    group: dist.ProcessGroup | None
    ranks: Sequence[int]

    def __call__(self, network: Any, x: Tensor, context: VideoContext) -> Tensor:
        """Return the video tokens (B, V, D) after the last layer, on every process, for tokens x (B, N + V, D)."""
        division = Division(self.group, self.ranks, context.text_length, x.shape[1] - context.text_length)
        rotary = None
        if context.rotary is not None:
            cos, sin = (division.own(table[None])[0] for table in context.rotary)
            rotary = cos, sin
        own = replace(context, text=division.share(context.text), rotary=rotary, attend=division.attend)
        return division.whole_video(network.transformer.run_layers(division.own(x), own))
