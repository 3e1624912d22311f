"""Sin-cos, learned and rotary position embeddings over (time, height, width), as transformer hooks.

Each mixin returns what is added to the embedded tokens (`position_embedding_forward`) and the cosines and sines that
rotate queries and keys (`rotary`); None means that nothing is added or rotated.
"""
import logging
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import nn

from common.errors import ConfigError
from common.kinds import AboveZero, Size, SizeOrZero
from common.patches import Grid
from common.swiss_army import BaseMixin
from network.context import VideoContext
from network.rotary_axes import DIFFUSERS, RELEASE, OtherSizes, coordinates, frequencies, read_riflex, riflex

logger = logging.getLogger(__name__)

BASE = 10000.0


def sinusoid(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """Return sines, then cosines, of positions / 10000^(2i / dim): (n,) -> (n, dim), in float64."""
    frequencies = BASE ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.outer(positions.double(), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def sincos_space(height: torch.Tensor, width: torch.Tensor, dim: int) -> torch.Tensor:
    """Return sin-cos positions (h, w, dim); the first half of the channels encodes the column, the second the row."""
    h, w = len(height), len(width)
    column = sinusoid(width, dim // 2)[None].expand(h, w, -1)
    row = sinusoid(height, dim // 2)[:, None].expand(h, w, -1)
    return torch.cat((column, row), dim=-1)


def sincos_video(time: torch.Tensor, height: torch.Tensor, width: torch.Tensor, dim: int) -> torch.Tensor:
    """Return sin-cos positions (t·h·w, dim); the first quarter of the channels encodes time, the rest space."""
    t, h, w = len(time), len(height), len(width)
    when = sinusoid(time, dim // 4)[:, None, None].expand(t, h, w, -1)
    where = sincos_space(height, width, dim // 4 * 3)[None].expand(t, h, w, -1)
    return torch.cat((when, where), dim=-1).reshape(t * h * w, dim).float()


class PositionMixin(BaseMixin):
    """Base of the position mixins: holds the largest grid of patches (time, height, width) and the text length.

    other_sizes: `release` or `diffusers`, whose positions differ where a video is smaller than the largest.
    """

    def __init__(self, grid: Grid, text_length: SizeOrZero, other_sizes: OtherSizes = RELEASE):
        super().__init__()
        self.grid, self.text_length, self.other_sizes = grid, text_length, other_sizes

    def position_embedding_forward(self, position_ids, context: VideoContext, **hook) -> torch.Tensor | None:
        return None

    def rotary(self, grid: Grid, text_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None

    def prefix(self, table: torch.Tensor, context: VideoContext) -> torch.Tensor:
        """Return the first rows of a (1, text + video, D) table, as many as there are tokens.

        The released models are trained this way: rows are taken in order, whatever the grid's shape. Raises ConfigError
        for another text length than the table's, or more tokens than it has rows.
        """
        t, h, w = context.grid
        self.check_text(context)
        rows = self.text_length + t * h * w
        if rows > table.shape[1]:
            raise self.too_large(context.grid)
        return table[:, :rows]

    def check_text(self, context: VideoContext) -> None:
        """Raise ConfigError for another text length than the table's."""
        if context.text_length != self.text_length:
            raise ConfigError(f"the text has {context.text_length} tokens, but the position table {self.text_length}; "
                              "set text_length of pos_embed_config to max_length of the text encoder")

    def too_large(self, grid: Grid) -> ConfigError:
        """Return the error for a grid of patches that exceeds the model's."""
        fits = tuple(min(size, limit) for size, limit in zip(grid, self.grid, strict=True))
        return ConfigError(f"video of {grid} patches (time, height, width) exceeds the {self.grid} that this model has "
                           f"positions for; the nearest that fits: {fits}. Make the video smaller or shorter, or train "
                           "a network with larger num_frames, latent_height, latent_width")


class Basic3DPositionEmbeddingMixin(PositionMixin):
    """A fixed sin-cos table over time, height and width; text tokens get zeros.

    height, width, compressed_num_frames: the grid of patches. Positions are divided by the interpolations.
    other_sizes: a smaller video takes the table's first rows, whatever its shape (`release`), or a table made for its
    own grid (`diffusers`). Raises ConfigError if hidden_size is not a multiple of 16.
    """

    def __init__(self, height: Size, width: Size, compressed_num_frames: Size, hidden_size: Size,
                 text_length: SizeOrZero = 0, height_interpolation: AboveZero = 1.0,
                 width_interpolation: AboveZero = 1.0, time_interpolation: AboveZero = 1.0,
                 other_sizes: OtherSizes = RELEASE):
        super().__init__((compressed_num_frames, height, width), text_length, other_sizes)
        if hidden_size % 16:
            raise ConfigError(f"hidden_size {hidden_size} is not a multiple of 16, which sin-cos positions need")
        self.interpolations = (time_interpolation, height_interpolation, width_interpolation)
        self.register_buffer("pos_embedding", torch.zeros(1, text_length + self._video_rows(), hidden_size))

    def _video_rows(self) -> int:
        t, h, w = self.grid
        return t * h * w

    def _video_table(self, dim: int) -> torch.Tensor:
        return sincos_table(self.grid, self.interpolations, dim)

    def reinit(self, parent_model=None) -> None:
        self.pos_embedding[0, :self.text_length] = 0
        self.pos_embedding[0, self.text_length:] = self._video_table(self.pos_embedding.shape[-1])

    def position_embedding_forward(self, position_ids, context: VideoContext, **hook) -> torch.Tensor:
        first = self.prefix(self.pos_embedding, context)
        if self.other_sizes == RELEASE or context.grid == self.grid:
            return first
        own = sincos_table(context.grid, self.interpolations, first.shape[-1]).to(first)
        return torch.cat((first[:, :self.text_length], own[None]), dim=1)


@lru_cache(maxsize=2)  # every forward pass of a run asks for the same table
def sincos_table(grid: Grid, interpolations: tuple[float, float, float], dim: int) -> torch.Tensor:
    """Return the sin-cos positions of a grid of patches: (t·h·w, dim) float32, on the CPU."""
    with torch.device("cpu"):  # kept for later, when another device may be the default (a network is built on meta)
        time, height, width = (torch.arange(n, dtype=torch.float64) / i
                               for n, i in zip(grid, interpolations, strict=True))
        return sincos_video(time, height, width, dim)


class Basic2DPositionEmbeddingMixin(Basic3DPositionEmbeddingMixin):
    """A fixed sin-cos table over height and width, the same for every latent frame; other_sizes must be `release`."""

    def __init__(self, height: Size, width: Size, compressed_num_frames: Size, hidden_size: Size,
                 text_length: SizeOrZero = 0, height_interpolation: AboveZero = 1.0,
                 width_interpolation: AboveZero = 1.0, time_interpolation: AboveZero = 1.0,
                 other_sizes: OtherSizes = RELEASE):
        super().__init__(height, width, compressed_num_frames, hidden_size, text_length, height_interpolation,
                         width_interpolation, time_interpolation)
        if other_sizes == DIFFUSERS:
            raise ConfigError("pos_embed_config.params.other_sizes: diffusers has no positions of height and width "
                              "alone; leave it out")

    def _video_rows(self) -> int:
        return self.grid[1] * self.grid[2]

    def _video_table(self, dim: int) -> torch.Tensor:
        height, width = (torch.arange(n, dtype=torch.float64) / i
                         for n, i in zip(self.grid[1:], self.interpolations[1:], strict=True))
        return sincos_space(height, width, dim).reshape(-1, dim).float()

    def position_embedding_forward(self, position_ids, context: VideoContext, **hook) -> torch.Tensor:
        self.check_text(context)
        t, h, w = context.grid
        if t > self.grid[0] or h * w > self._video_rows():
            raise self.too_large(context.grid)
        text, frame = self.pos_embedding[:, :self.text_length], self.pos_embedding[:, self.text_length:][:, :h * w]
        return torch.cat((text, frame.repeat(1, t, 1)), dim=1)


class Rotary3DPositionEmbeddingMixin(PositionMixin):
    """Rotary positions of the video tokens, counted from the grid's corner, and optionally a learned table.

    hidden_size_head: a multiple of 16; a quarter of each head's channels is rotated by time, three eighths each by
    height and width. Angles are computed for each video, so the tables in released checkpoints are not needed.
    other_sizes: see `rotary_axes.coordinates`. riflex: see `rotary_axes.read_riflex`; it makes videos longer than
    trained repeat less.
    """

    def __init__(self, height: Size, width: Size, compressed_num_frames: Size, hidden_size: Size,
                 hidden_size_head: Size, text_length: SizeOrZero, theta: AboveZero = BASE, rot_v: bool = False,
                 height_interpolation: AboveZero = 1.0, width_interpolation: AboveZero = 1.0,
                 time_interpolation: AboveZero = 1.0, learnable_pos_embed: bool = False,
                 other_sizes: OtherSizes = RELEASE, riflex: bool | Mapping | None = None):
        super().__init__((compressed_num_frames, height, width), text_length, other_sizes)
        if hidden_size_head % 16:
            raise ConfigError(f"hidden_size_head {hidden_size_head} is not a multiple of 16, which 3D rotation needs")
        if rot_v:
            raise ConfigError("pos_embed_config.params.rot_v is true, but rotary positions turn queries and keys, "
                              "never values; set it to false or leave it out")
        if (height_interpolation, width_interpolation, time_interpolation) != (1.0, 1.0, 1.0):
            logger.warning("rotary positions are not interpolated; height_, width_, time_interpolation have no effect")
        if learnable_pos_embed and (other_sizes == DIFFUSERS or riflex):
            raise ConfigError("pos_embed_config.params: a learned table is valid for its own grid alone; leave out "
                              f"{'other_sizes' if other_sizes == DIFFUSERS else 'riflex'}")
        self.hidden_size_head, self.theta = hidden_size_head, theta
        self.riflex_k = read_riflex(riflex, compressed_num_frames, hidden_size_head // 4, theta)
        rows = text_length + compressed_num_frames * height * width
        self.pos_embedding = nn.Parameter(torch.zeros(1, rows, hidden_size)) if learnable_pos_embed else None

    def position_embedding_forward(self, position_ids, context: VideoContext, **hook) -> torch.Tensor | None:
        return None if self.pos_embedding is None else self.prefix(self.pos_embedding, context)

    def rotary(self, grid: Grid, text_length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines, (text + video, head dim / 2) each; text has angle zero, that is no rotation."""
        bounded = grid if self.other_sizes == RELEASE else grid[:1]  # scaled positions have room for every size
        if any(size > limit for size, limit in zip(bounded, self.grid, strict=False)):
            raise self.too_large(grid)
        dims = (self.hidden_size_head // 4, self.hidden_size_head // 8 * 3, self.hidden_size_head // 8 * 3)
        rates = [frequencies(dim, self.theta, device) for dim in dims]
        if self.riflex_k is not None:
            rates[0] = riflex(dims[0], self.theta, self.riflex_k, grid[0], device)
        along = coordinates(grid, self.grid, self.other_sizes, device)
        t, h, w = (torch.outer(where, rate) for where, rate in zip(along, rates, strict=True))
        video = torch.cat([x.expand(*grid, -1) for x in (t[:, None, None], h[:, None], w)], dim=-1)
        angles = torch.cat((video.new_zeros(text_length, self.hidden_size_head // 2), video.flatten(0, 2)))
        return angles.cos(), angles.sin()
