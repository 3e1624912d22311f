"""References of the small model: for each noise the end of its guided probability flow, which a second method confirms.
"""
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.shapes_judge import ATTRIBUTES, judge_frames
from benchmarks.studies.cost import build_sampler
from benchmarks.studies.keys import content, digest, key_of_parts
from common.errors import DataError
from common.files import whole_file
from media.clips import read_frames
from tools.shapes_world import Combination

logger = logging.getLogger(__name__)

RAMP = {"target": "sgm.discretizer.VPRampDiscretization"}
METHOD = {"target": "sgm.sampling.RungeKutta3Sampler"}  # of third order from zero SNR to the clean end
SECOND = {"target": "sgm.sampling.DPMPP3MSampler"}
SECOND_STEPS = 2  # of the second method for each of the first, which evaluates three times a step
SETTLED = 0.05  # root mean square of latents, whose own is about 1: what the two methods may differ by
FLOW = "flow.safetensors"


@dataclass(frozen=True)
class Reference:
    """The ends of the flow from some noises: latents (N, T, C, h, w), their videos, and how far apart two methods end
    (N,)."""

    latents: Tensor
    apart: np.ndarray
    videos: Sequence[Path]

    @property
    def settled(self) -> np.ndarray:
        """(N,), True where the methods agree."""
        return self.apart <= SETTLED

    @property
    def floor(self) -> float:
        """The mean distance between the ends of the two methods, where they agree."""
        return float(self.apart[self.settled].mean()) if self.settled.any() else math.nan

    def about(self) -> dict[str, float]:
        """Return the share of noises without a settled end, and the mean distance of the two methods of the others."""
        return {"unsettled": float((~self.settled).mean()), "error_floor": self.floor}

    def compared(self, latents: Tensor, videos: Sequence[Path]) -> dict[str, np.ndarray]:
        """Return for latents and videos from the same noises, each (N,), how far they are from the flow's end.

        `error` and `pixel_error` are root mean squares, of latents and of 8-bit pixels. `other_basin` is 1 where the
        judged attributes are others than the reference's. All are NaN where the reference is not settled.
        """
        found: dict[str, list[float]] = {"pixel_error": [], "other_basin": []}
        for own, other in zip(videos, self.videos, strict=True):
            frames = [read_frames(str(video)) for video in (own, other)]
            found["pixel_error"].append(np.sqrt(np.square(frames[0].astype(float) - frames[1]).mean()))
            found["other_basin"].append(float(shown(frames[0]) != shown(frames[1])))
        whole = {"error": rms(latents - self.latents), **{name: np.array(values) for name, values in found.items()}}
        return {name: np.where(self.settled, values, np.nan) for name, values in whole.items()}


def rms(difference: Tensor) -> np.ndarray:
    """Return the root mean square of each row."""
    return difference.double().flatten(1).square().mean(1).sqrt().numpy()


def shown(frames: np.ndarray) -> tuple[str | None, ...]:
    """Return the judged attributes of a clip."""
    verdict = judge_frames(frames)
    return tuple(getattr(verdict, name) for name in ATTRIBUTES)


def reference(model, combinations: Sequence[Combination], seeds: Sequence[int], guidance: Mapping | None, steps: int,
              folder: Path) -> Reference:
    """Return the reference of all combinations, for each of the seeds, with this guider; computed once below `folder`.

    `model` is one like `trained_model.Model`.
    """
    parts = [{"sampler": method, "schedule": RAMP, "guidance": guidance} for method in (METHOD, SECOND)]
    key = {"parts": parts, "captions": [one.caption for one in combinations], "seeds": list(seeds), "steps": steps,
           "model": content(model.config),  # and the code that makes its videos
           **key_of_parts((METHOD, SECOND, RAMP, guidance, model.config), (__name__, type(model).__module__))}
    place = folder / digest(key)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".{place.name}.lock"):  # another process may be at the same one
        if not (place / FLOW).is_file():
            ends = [model.run(build_sampler(part, count), combinations, seeds)
                    for part, count in zip(parts, (steps, SECOND_STEPS * steps), strict=True)]
            model.write(ends[0], combinations, seeds, place)
            with whole_file(place / FLOW) as temporary:
                save_file({"latents": ends[0], "apart": torch.from_numpy(rms(ends[0] - ends[1]))}, temporary)
    found = Reference(*_stored(place / FLOW), model.paths(combinations, seeds, place))
    if not found.settled.all():
        logger.warning("%d of %d noises have no settled reference with %d steps: they are left out of the solver error",
                       int((~found.settled).sum()), len(found.apart), steps)
    return found


def _stored(path: Path) -> tuple[Tensor, np.ndarray]:
    """Return the latents and distances of a kept reference. Raises DataError for a damaged file."""
    try:
        stored = load_file(path)
        return stored["latents"], stored["apart"].numpy()
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} is no reference ({error}): remove its folder") from error
