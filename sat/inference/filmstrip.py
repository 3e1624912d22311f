"""The filmstrip of a sampling run: decoded denoised estimates of its steps in one picture."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from common.files import WholeFiles
from diffusion_video import DiffusionEngine
from media.videos import tiled, to_pixels
from parallel import groups
from sgm.sampling import StepInfo

FILMSTRIP = "denoised.png"
FRAMES = 6
MARGIN = 30  # pixels left of the frames, for the step's number


@dataclass
class Filmstrip:
    """A sampler callback that keeps the denoised estimates (B, T, C, h, w) of each `every`-th step and the last."""

    every: int
    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    def __call__(self, step: StepInfo) -> None:
        number = step.index + 1
        if number % self.every == 0 or number == step.num_steps:
            self.kept.append((number, step.denoised.cpu()))

    def write(self, path: Path, engine: DiffusionEngine, row: int, files: WholeFiles, pad_latents: int = 0) -> None:
        """Write the filmstrip of one row of the batch as PNG, one line of frames for each kept step.

        A line has frames evenly spread over the video and the step's number, counted from 1, at its left. The first
        `pad_latents` latent frames are dropped before decoding.
        """
        from PIL import Image, ImageDraw
        lines = [_frames(engine, denoised[row:row + 1, pad_latents:]) for _, denoised in self.kept]
        sheet = Image.fromarray(tiled(np.concatenate(lines), len(lines[0])))
        picture = Image.new("RGB", (sheet.width + MARGIN, sheet.height), "white")
        picture.paste(sheet, (MARGIN, 0))
        draw = ImageDraw.Draw(picture)
        for i, (number, _) in enumerate(self.kept):
            draw.text((4, 2 + i * (lines[0].shape[1] + 2)), str(number), fill="black")
        if groups.leads_copy():
            with files.writing(path) as partial:
                picture.save(partial)


def _frames(engine: DiffusionEngine, latents: Tensor) -> np.ndarray:
    """Decode latents (1, T, C, h, w); return evenly spread frames (at most 6, H, W, 3) of 8 bits."""
    video = np.concatenate([to_pixels(chunk[0]) for chunk in engine.decode_latents(latents.to(engine.device))])
    return video[np.linspace(0, len(video) - 1, min(FRAMES, len(video))).round().astype(int)]
