"""The denoised estimates of a run, kept step by step when a call asks for them."""
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError
from common.typed import shown
from engine.first_stage import LatentCodec
from inference.jobs import Job
from inference.sizes import physical_memory
from media.videos import to_pixels
from sgm.sampling import StepInfo

CHOICES = (False, True, "frames")


class Estimates:
    """A callback that keeps the denoised estimates (B, T, C, h, w) of every step on the CPU, if asked to."""

    def __init__(self, wanted: bool | str, callback: Callable[[StepInfo], Any] | None = None):
        if callback is not None and not callable(callback):
            raise ConfigError(f"callback is {shown(callback)}; it must be a function of a step")
        self.wanted, self.callback = wanted, callback
        self.kept: list[Tensor] = []

    def __call__(self, step: StepInfo) -> None:
        if self.wanted:
            self.kept.append(step.denoised.detach().float().cpu())
        if self.callback is not None:
            self.callback(step)

    def of_row(self, codec: LatentCodec, row: int, pad_latents: int) -> dict[str, Any]:
        """Return a video's entry of the trace: latents (steps, T, C, h, w), or frames (steps, frames, H, W, 3) uint8.
        """
        if not self.wanted:
            return {}
        latents = torch.stack([kept[row, pad_latents:] for kept in self.kept])
        if self.wanted != "frames":
            return {"estimates": latents}
        place = next(codec.first_stage_model.parameters()).device
        return {"estimates": np.stack([pixels_of(codec.decode_latents(one[None].to(place))) for one in latents])}


def pixels_of(chunks: Iterable[Tensor]) -> np.ndarray:
    """Return the frames (t, H, W, 3) of 8 bits of decoded chunks (1, 3, t, H, W)."""
    return np.concatenate([to_pixels(chunk[0]) for chunk in chunks])


def check_estimates(wanted: Any, jobs: Sequence[Job], steps: int) -> None:
    """Raise ConfigError for a value that is none of CHOICES, and for estimates that would not fit into memory."""
    if not any(wanted is choice or wanted == choice for choice in CHOICES):
        raise ConfigError(f"estimates is {shown(wanted)}; it must be true (latents), 'frames', or false")
    if not wanted:
        return
    plan, segments = jobs[0].plan, jobs[0].segments
    one = 4 * math.prod(plan.latent_shape) + (3 * plan.frames * plan.height * plan.width if wanted == "frames" else 0)
    needed = one * steps * len(jobs) * (1 if segments is None else segments.count)
    if needed > physical_memory():
        raise ConfigError(f"estimates of {steps} steps of {len(jobs)} video(s) take {needed / 1e9:.0f} GB, and this "
                          f"machine has {physical_memory() / 1e9:.0f} GB; ask for fewer, or keep what you need in a "
                          "callback")
