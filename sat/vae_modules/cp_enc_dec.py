"""Encoder and decoder of the causal 3D VAE (CogVideoX, arXiv 2408.06072, section 2.1): 8x in space, 4x in time."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from annotated_types import MaxLen, MinLen
from torch import Tensor, nn

from common.compression import Compression
from common.kinds import BelowOne, Layers, Size, SizeOrZero
from common.unread import Unread
from vae_modules.convolution import CausalConv3d, CausalState
from vae_modules.layers import Downsample3D, ResnetBlock3D, Upsample3D
from vae_modules.memory_order import in_memory_order
from vae_modules.norms import make_norm, swish

# Released files give one set of parameters to encoder and decoder alike.
ANY_SIZE = Unread("the autoencoder takes videos of any size", (256,))
SAME_NORMS = Unread("processes that decode a video together compute what one does", (True, False))


def _check(ch: int, groups: int, attn_resolutions: Sequence[int], temporal_compress_times: int,
           ch_mult: Sequence[int]) -> int:
    """Return how many levels halve time; raise ValueError for what the architecture does not support."""
    if ch % groups:
        raise ValueError(f"ch is {ch}: GroupNorm of {groups} groups needs a multiple of {groups}")
    if len(attn_resolutions):
        raise ValueError(f"attn_resolutions is {list(attn_resolutions)}: this VAE has no attention, set it to []")
    levels = temporal_compress_times.bit_length() - 1
    if 1 << levels != temporal_compress_times or levels >= len(ch_mult):
        raise ValueError(f"temporal_compress_times is {temporal_compress_times}: "
                         f"a power of 2 below 2^{len(ch_mult)} is needed")
    return levels


class ContextParallelEncoder3D(nn.Module):
    """The encoder: video (B, 3, 4 k + 1, H, W) to moments (B, 2 z, k + 1, H / 8, W / 8), mean then log-variance."""

    UNREAD: ClassVar = {"out_ch": Unread("an encoder makes latents, which z_channels counts", (3,)),
                        "resolution": ANY_SIZE, "gather_norm": SAME_NORMS}

    def __init__(self, *, ch: Size, z_channels: Size, num_res_blocks: Layers,
                 ch_mult: Annotated[Sequence[Size], MinLen(1), MaxLen(16)] = (1, 2, 2, 4), in_channels: Size = 3,
                 out_ch: Size = 3, double_z: bool = True, dropout: BelowOne = 0.0,
                 attn_resolutions: Sequence[int] = (), resolution: Size = 256, gather_norm: bool = True,
                 temporal_compress_times: Size = 4, norm_groups: Size = 32):
        super().__init__()
        in_time = _check(ch, norm_groups, attn_resolutions, temporal_compress_times, ch_mult)
        self.compression = Compression.of_levels(len(ch_mult), temporal_compress_times)
        widths = [ch * m for m in ch_mult]
        self.conv_in = CausalConv3d(in_channels, ch, 3)
        self.down = nn.ModuleList()
        before = ch
        for i, width in enumerate(widths):
            level: Any = nn.Module()
            level.block = nn.ModuleList(
                ResnetBlock3D(before if j == 0 else width, width, dropout, norm_groups) for j in range(num_res_blocks))
            if i < len(widths) - 1:
                level.downsample = Downsample3D(width, in_time=i < in_time)
            self.down.append(level)
            before = width
        self.mid: Any = nn.Module()
        self.mid.block_1 = ResnetBlock3D(before, before, dropout, norm_groups)
        self.mid.block_2 = ResnetBlock3D(before, before, dropout, norm_groups)
        self.norm_out = make_norm(before, None, norm_groups)
        self.conv_out = CausalConv3d(before, 2 * z_channels if double_z else z_channels, 3)

    def forward(self, x: Tensor, past: CausalState | None = None) -> Tensor:
        """Return moments of a whole video, or of the chunk that follows `past`, whose `after` gets the new state."""
        past = past or CausalState()
        h = self.conv_in(in_memory_order(x), past)
        level: Any
        for level in self.down:
            for block in level.block:
                h = block(h, None, past)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = self.mid.block_2(self.mid.block_1(h, None, past), None, past)
        return self.conv_out(swish(self.norm_out(h, None, past, overwrites=True)), past)


class ContextParallelDecoder3D(nn.Module):
    """The decoder: a chunk's latents (B, z, t, h, w) to frames (B, 3, T, 8 h, 8 w).

    T is 4 (t - 1) + 1 for the first chunk and 4 t for later ones.
    """

    UNREAD: ClassVar = {"in_channels": Unread("a decoder takes latents, which z_channels counts", (3,)),
                        "double_z": Unread("a decoder takes latents, not moments", (True, False)),
                        "resolution": ANY_SIZE, "gather_norm": SAME_NORMS}

    def __init__(self, *, ch: Size, z_channels: Size, num_res_blocks: SizeOrZero,
                 ch_mult: Annotated[Sequence[Size], MinLen(1), MaxLen(16)] = (1, 2, 2, 4), in_channels: Size = 3,
                 out_ch: Size = 3, double_z: bool = True, dropout: BelowOne = 0.0,
                 attn_resolutions: Sequence[int] = (), resolution: Size = 256, gather_norm: bool = False,
                 temporal_compress_times: Size = 4, norm_groups: Size = 32):
        super().__init__()
        in_time = _check(ch, norm_groups, attn_resolutions, temporal_compress_times, ch_mult)
        self.compression = Compression.of_levels(len(ch_mult), temporal_compress_times)
        widths = [ch * m for m in ch_mult]
        before = widths[-1]
        self.conv_in = CausalConv3d(z_channels, before, 3)
        self.mid: Any = nn.Module()
        self.mid.block_1 = ResnetBlock3D(before, before, dropout, norm_groups, z_channels)
        self.mid.block_2 = ResnetBlock3D(before, before, dropout, norm_groups, z_channels)
        levels = []
        for i in reversed(range(len(widths))):
            level: Any = nn.Module()
            level.block = nn.ModuleList(
                ResnetBlock3D(before if j == 0 else widths[i], widths[i], dropout, norm_groups, z_channels)
                for j in range(num_res_blocks + 1))
            if i > 0:
                level.upsample = Upsample3D(widths[i], in_time=i >= len(widths) - in_time)
            levels.append(level)
            before = widths[i]
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = make_norm(before, z_channels, norm_groups)
        self.conv_out = CausalConv3d(before, out_ch, 3)

    def forward(self, z: Tensor, past: CausalState | None = None) -> Tensor:
        """Return frames of the first chunk, or of the chunk that follows `past`, whose `after` gets the new state."""
        past, z = past or CausalState(), in_memory_order(z)
        h = self.conv_in(z, past)
        h = self.mid.block_2(self.mid.block_1(h, z, past), z, past)
        level: Any
        for level in reversed(self.up):
            for block in level.block:
                h = block(h, z, past)
            if hasattr(level, "upsample"):
                h = level.upsample(h, past)
        return self.conv_out(swish(self.norm_out(h, z, past, overwrites=True)), past)
