"""Guidance: which passes through the network an estimate takes, how they combine, and how strongly.

A guider names its `passes`; away from the conditional one alone they are taken where its scale is not 1. Most push the
conditional estimate away from another one, the negative, so that a new guider is a choice of passes and `push`.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from sgm.guidance_scale import EVERYWHERE, GuidanceScale, Scale
from sgm.noise_schedule import VE, NoiseLevel
from sgm.util import instantiate_from_config

NO_THRESHOLDING = {"target": "sgm.sampling_utils.NoDynamicThresholding"}


@dataclass(frozen=True)
class Pass:
    """One pass of the batch through the network: which conditioning, and network inputs of its own."""

    unconditional: bool = False
    inputs: Mapping = field(default_factory=dict)


COND, UNCOND = Pass(), Pass(unconditional=True)


@dataclass(frozen=True)
class Evaluation:
    """Where estimates of x0 were made: noisy latents x (B, ...), their level, the scale (a number or one per row)."""

    x: torch.Tensor | None
    noise: NoiseLevel
    scale: Scale


class IdentityGuider:
    """No guidance: the conditional estimate alone."""

    passes: ClassVar[tuple[Pass, ...]] = (COND,)

    def needs_timestep(self) -> bool:
        return False

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> float:
        return 1.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        return x


@dataclass(kw_only=True)
class Guider(GuidanceScale):
    """Base of guidance: negative + scale * (positive - negative), the scale as in GuidanceScale.

    `dyn_thresh_config` names what combines the two and keeps the range in check (`sgm.sampling_utils`).
    """

    passes: ClassVar[tuple[Pass, ...]] = (UNCOND, COND)

    dyn_thresh_config: Mapping | None = None
    dyn_thresh: Any = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        self.dyn_thresh = instantiate_from_config(self.dyn_thresh_config or NO_THRESHOLDING)

    def push(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory):
        """(negative, positive, memory) from one estimate (B, ...) per pass; `memory` is None at first."""
        negative, positive = estimates
        return negative, positive, None

    def guide(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory=None) -> tuple[torch.Tensor, Any]:
        """The guided estimate (B, ...) from one estimate per pass, and what to give the next evaluation as `memory`."""
        negative, positive, memory = self.push(estimates, at, memory)
        return self.dyn_thresh(negative, positive, at.scale), memory


@dataclass(kw_only=True)
class VanillaCFG(Guider):
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): uncond + scale * (cond - uncond). Two passes."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        """Guide a doubled batch `x` (2B, ...), unconditional rows first, outside a run.

        `step_index` is num_steps - timestep for the release schedule, the step counted from 1 for the smooth ones;
        bounds of an interval are compared with `sigma` (sigma / alpha).
        """
        if sigma is None and (self.sigma_lo, self.sigma_hi) != EVERYWHERE:
            raise ValueError("a guidance interval needs sigma")
        if step_index is None and self.schedule not in ("constant", "interval"):
            raise ValueError(f"the {self.schedule} schedule needs step_index")
        ratio = EVERYWHERE[1] if sigma is None else float(torch.as_tensor(sigma).flatten()[0])
        k = 1.0 if step_index is None else float(step_index)
        noise = NoiseLevel(1.0, ratio, self.num_steps - k, k - 1, self.num_steps, VE)
        return self.guide(x.chunk(2), Evaluation(None, noise, self.scale_at(noise, scale)))[0]


@dataclass(kw_only=True)
class DynamicCFG(VanillaCFG):
    """Classifier-free guidance whose scale moves over the run; as released where no schedule is named. Two passes."""

    schedule: str = "release"
