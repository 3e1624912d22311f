"""One pass whose tokens are divided among processes (DeepSpeed Ulysses, Jacobs et al. 2023, section 3.1).

Each process holds its share of the text and of the video tokens, and while they attend to each other all tokens of its
share of the heads; one all-to-all exchange turns the one into the other. Numbers are those of one process to rounding.

Shapes: B batch, N text and V video tokens, P processes, h heads, d head dim, D hidden size. Shares are of equal length,
n = ceil(N / P) and v = ceil(V / P); what is missing in the last ones is padded with zeros, which nothing attends to.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from common.errors import ConfigError
from network.attention import attention
from network.context import VideoContext


@dataclass(frozen=True)
class Division:
    """N + V tokens on the processes of a group, whose global ranks are given."""

    group: dist.ProcessGroup
    ranks: Sequence[int]
    text: int
    video: int

    @property
    def size(self) -> int:
        return len(self.ranks)

    def share(self, x: Tensor) -> Tensor:
        """This process's (B, ceil(tokens / P), ...) of tokens of one kind (B, tokens, ...)."""
        length = -(-x.shape[1] // self.size)
        start = self.ranks.index(dist.get_rank()) * length
        share = x[:, start:start + length]
        return F.pad(share, (0, 0) * (x.dim() - 2) + (0, length - share.shape[1]))

    def own(self, x: Tensor) -> Tensor:
        """This process's share (B, n + v, ...) of (B, N + V, ...)."""
        return torch.cat([self.share(part) for part in x.split((self.text, self.video), dim=1)], dim=1)

    def whole_video(self, share: Tensor) -> Tensor:
        """(B, V, D) from every process's (B, v, D)."""
        shares = [torch.empty_like(share) for _ in self.ranks]
        dist.all_gather(shares, share.contiguous(), group=self.group)
        return torch.cat(shares, dim=1)[:, :self.video]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
        """As `dit_attention.attention`, of the share's queries (B, h, n + v or v, d), keys and values (B, h, n + v, d).

        Raises ConfigError for heads that cannot be divided.
        """
        if q.shape[1] % self.size:
            raise ConfigError(f"sequence_parallel_size {self.size} does not divide the {q.shape[1]} attention heads")
        tokens = self._places(self.text, q.device)
        asking = tokens if q.shape[2] == k.shape[2] else self._places(0, q.device)
        out = attention(self._by_heads(q, asking), self._by_heads(k, tokens), self._by_heads(v, tokens), dropout)
        return self._by_tokens(out, asking, q.shape[2])

    def _places(self, text: int, device: torch.device) -> Tensor:
        """Where the tokens [text, video] are when all shares stand one after the other."""
        n, v = (-(-count // self.size) for count in (text, self.video))
        text_tokens, video_tokens = torch.arange(text, device=device), torch.arange(self.video, device=device)
        return torch.cat((text_tokens // max(n, 1) * (n + v) + text_tokens % max(n, 1),
                          video_tokens // v * (n + v) + n + video_tokens % v))

    def _by_heads(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, h, share, d) of all heads -> (B, h / P, tokens, d) of all tokens."""
        shares = self._exchange(x.unflatten(1, (self.size, -1)).transpose(0, 1))
        return shares.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, places]

    def _by_tokens(self, x: Tensor, places: Tensor, share: int) -> Tensor:
        """(B, tokens, h / P · d) of all tokens -> (B, share, h · d) of all heads."""
        padded = x.new_zeros(len(x), self.size * share, x.shape[2])
        padded[:, places] = x
        return self._exchange(padded.unflatten(1, (self.size, share)).transpose(0, 1)).permute(1, 2, 0, 3).flatten(2)

    def _exchange(self, parts: Tensor) -> Tensor:
        """(P, ...), part i for process i -> (P, ...), part i from process i."""
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=self.group)
        return received


def run_divided(group: tuple[dist.ProcessGroup, Sequence[int]], network, x: Tensor, context: VideoContext) -> Tensor:
    """All layers of a DiffusionTransformer on tokens x (B, N + V, D), by the processes of a group: (B, V, D)."""
    division = Division(*group, context.text_length, x.shape[1] - context.text_length)
    rotary = context.rotary and tuple(division.own(table[None])[0] for table in context.rotary)
    own = replace(context, text=division.share(context.text), rotary=rotary, attend=division.attend)
    return division.whole_video(network.transformer.run_layers(division.own(x), own))
