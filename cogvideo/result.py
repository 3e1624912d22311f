"""The result of one video: its frames, latents, and the course of its sampling."""
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from common.errors import DataError
from common.files import expanded_path
from common.typed import shown
from media.videos import tiled, write_video

SHOWN, COLUMNS = 24, 6  # frames in a picture, and in one of its lines


@dataclass(frozen=True, eq=False)
class Result:
    """One video. `video` is (frames, H, W, 3) uint8, `latents` are (T, C, h, w) as sampled, without padding.

    `trace` has for every step `guidance_scale`, `noise` (alpha, sigma, timestep) and the forward passes so far
    (`passes`); with `estimates`, also the denoised estimate. `noise` (T, C, h, w) is what a clip was inverted to.
    """

    prompt: str
    seed: int
    sample: int
    fps: int
    video: np.ndarray = field(repr=False)
    latents: Tensor = field(repr=False)
    trace: Mapping[str, Any] = field(repr=False)
    noise: Tensor | None = field(default=None, repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the video as an mp4 file, byte for byte the one of the command line, and return its path.

        Raises DataError if it cannot be written.
        """
        if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
            raise DataError(f"{shown(path)} is no path; give the name of a file that ends with .mp4")
        target = expanded_path(os.fspath(path), "save")
        if target.suffix.lower() != ".mp4":
            raise DataError(f"{path}: videos are written as mp4; give a name that ends with .mp4")
        write_video(target, [self.video], self.fps)
        return target

    def show(self) -> Image.Image:
        """Return a picture of at most 24 frames, evenly spread; a notebook displays it."""
        count = min(len(self.video), SHOWN)
        chosen = self.video[np.linspace(0, len(self.video) - 1, count).round().astype(int)]
        return Image.fromarray(tiled(chosen, min(count, COLUMNS)))
