"""The coordinates and frequencies of rotary positions: as released, at other sizes, and for longer videos (RIFLEx)."""
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from common.errors import ConfigError
from common.patches import Grid

OtherSizes = Literal["release", "diffusers"]
RELEASE: OtherSizes = "release"
DIFFUSERS: OtherSizes = "diffusers"
RIFLEX_SHARE = 0.9  # of a period that a whole video takes


def frequencies(dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """Return the angle per position of each pair of channels, theta^(-2i / dim): (dim / 2,)."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def intrinsic_frequency(length: int, dim: int, theta: float) -> int:
    """Return the index, from 1, of the frequency whose period a longer video would be the first to exceed.

    It is the highest frequency that goes through no more than one period in the `length` latent frames that a model was
    trained with. Faster ones repeat in training already, slower ones repeat later.
    """
    return next((k for k in range(1, dim // 2) if period(k, dim, theta) >= length), dim // 2)


def period(k: int, dim: int, theta: float) -> int:
    """Return the period of frequency k, from 1, in latent frames (N_k of RIFLEx)."""
    return round(2 * math.pi * theta ** (2 * (k - 1) / dim))


def riflex(dim: int, theta: float, k: int, length: int, device: torch.device | None = None) -> Tensor:
    """Return the frequencies for a video of `length` latent frames by RIFLEx (Zhao et al. 2025, eq. 8): (dim / 2,).

    Where a video is longer than the period of frequency k (from 1), this frequency is lowered so that the whole video
    takes 0.9 of a period and does not repeat; the others stay as they are.
    """
    rates = frequencies(dim, theta, device)
    if length > period(k, dim, theta):
        rates[k - 1] = RIFLEX_SHARE * 2 * math.pi / length
    return rates


def read_riflex(given: bool | Mapping | None, length: int, dim: int, theta: float) -> int | None:
    """Return RIFLEx's k of the key `riflex`: None if it is off, found from the trained `length` if it is true.

    Raises ConfigError for anything but true, false and {k: a frequency's index from 1}.
    """
    if given is None or given is False:
        return None
    if given is True:
        return intrinsic_frequency(length, dim, theta)
    k = given.get("k") if isinstance(given, Mapping) and set(given) == {"k"} else None
    if type(k) is not int or not 1 <= k <= dim // 2:
        raise ConfigError(f"pos_embed_config.params.riflex: {given!r} must be true, false or {{k: n}} with n from 1 to "
                          f"{dim // 2}")
    return k


def coordinates(grid: Grid, largest: Grid, other_sizes: str, device: torch.device | None = None) -> list[Tensor]:
    """Return the coordinates of a video's patches along time, height and width: (t,), (h,), (w,) float32.

    At the size of `largest` they count from 0. At other sizes they do so too with `release`. With `diffusers`, height
    and width are scaled to fit into the largest size and centred there, as diffusers' pipelines for the 1.0 models do.
    """
    time, height, width = (torch.arange(size, device=device, dtype=torch.float32) for size in grid)
    if other_sizes == RELEASE or grid[1:] == largest[1:]:
        return [time, height, width]
    (_, h, w), (_, most_h, most_w) = grid, largest
    tall = h / w > most_h / most_w
    covered = (most_h, round(most_h / h * w)) if tall else (round(most_w / w * h), most_w)
    return [time, *(_centred(size, most, extent, device)
                    for size, most, extent in zip((h, w), (most_h, most_w), covered, strict=True))]


def _centred(size: int, largest: int, extent: int, device: torch.device | None) -> Tensor:
    start = round((largest - extent) / 2)
    return torch.linspace(start, (start + extent) * (size - 1) / size, size, device=device, dtype=torch.float32)
