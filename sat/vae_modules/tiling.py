"""Computation on a video tile by tile in height and width; neighbouring tiles are blended where they overlap."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ConfigError

TILE_SIZE = (32, 48)  # a quarter of the 480 x 720 video of the released models, with a margin


@dataclass(frozen=True)
class Tiling:
    """The tiling of a latent: tiles of at most `size` (height, width), neighbours sharing at least `overlap`.

    Both are in latent pixels. Raises ConfigError if they do not fit together.
    """

    size: Sequence[int]
    overlap: int

    def __post_init__(self):
        if len(self.size) != 2 or not 0 <= self.overlap < min(self.size):
            raise ConfigError(f"args.vae_tile_size {list(self.size)} with args.vae_tile_overlap {self.overlap}: give "
                              "[height, width] in latent pixels, and an overlap of 0 or more, below both")

    def spans(self, height: int, width: int) -> tuple[list[slice], list[slice]]:
        """Return the tiles' rows and columns in latent pixels."""
        return _spans(height, self.size[0], self.overlap), _spans(width, self.size[1], self.overlap)


def _spans(length: int, size: int, overlap: int) -> list[slice]:
    """Return the fewest spans of equal size that cover `length`, evenly spread."""
    if length <= size:
        return [slice(0, length)]
    count = math.ceil((length - overlap) / (size - overlap))
    starts = (round(i * (length - size) / (count - 1)) for i in range(count))
    return [slice(start, start + size) for start in starts]


def by_tiles(run: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling | None, latent: int = 1, out: int = 1
             ) -> Tensor:
    """Return run(x) for x (..., h, w), computed tile by tile; without tiling, or for one tile, exactly run(x).

    A latent pixel is `latent` pixels of x and `out` pixels of the result wide and high. Tiles are blended with weights
    that rise and fall linearly across an overlap and sum to one.
    """
    if tiling is None:
        return run(x)
    height, width = (side // latent for side in x.shape[-2:])
    rows, columns = tiling.spans(height, width)
    if len(rows) == len(columns) == 1:
        return run(x)
    whole: Tensor | None = None
    for row, down in zip(rows, _weights(rows, out), strict=True):
        for column, across in zip(columns, _weights(columns, out), strict=True):
            tile = run(x[..., _scaled(row, latent), _scaled(column, latent)])
            if whole is None:
                whole = tile.new_zeros(*tile.shape[:-2], height * out, width * out)
            whole[..., _scaled(row, out), _scaled(column, out)] += tile * (down[:, None] * across).to(tile)
    assert whole is not None
    return whole


def _scaled(span: slice, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)


def _weights(spans: Sequence[slice], factor: int) -> list[Tensor]:
    """Return the blending weights (size * factor,) of each span, in float64."""
    raw = torch.zeros(len(spans), spans[-1].stop * factor, dtype=torch.float64)
    for i, span in enumerate(spans):
        pixel = torch.arange(span.start * factor, span.stop * factor, dtype=torch.float64) + 0.5
        ramp = torch.ones_like(pixel)
        if i > 0 and spans[i - 1].stop > span.start:
            ramp = torch.minimum(ramp, (pixel / factor - span.start) / (spans[i - 1].stop - span.start))
        if i + 1 < len(spans) and span.stop > spans[i + 1].start:
            ramp = torch.minimum(ramp, (span.stop - pixel / factor) / (span.stop - spans[i + 1].start))
        raw[i, _scaled(span, factor)] = ramp
    share = raw / raw.sum(0)
    return [share[i, _scaled(span, factor)] for i, span in enumerate(spans)]
