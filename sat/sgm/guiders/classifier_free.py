"""Guiders whose branches are the conditional and the unconditional estimate."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt

from common.errors import ConfigError
from common.kinds import AboveZero, Share
from sgm.guidance_scale import EVERYWHERE, Scale, ScheduleName, is_unguided
from sgm.guiders.base import COND, UNCOND, Evaluation, Guider, Pass, projection, row_dot
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE


@dataclass(kw_only=True)
class VanillaCFG(Guider):
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6): uncond + scale * (cond - uncond). Two branches."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        """Guide a doubled batch `x` (2B, ...), unconditional rows first, outside a run.

        `step_index` is num_steps - timestep for schedule release, the step counted from 1 for increasing and
        decreasing. `sigma` (sigma / alpha) is compared with the bounds of an interval. Raises ValueError if one is
        needed but missing.
        """
        if sigma is None and (self.sigma_lo, self.sigma_hi) != EVERYWHERE:
            raise ValueError("a guidance interval needs sigma")
        if step_index is None and self.schedule not in ("constant", "interval"):
            raise ValueError(f"the {self.schedule} schedule needs step_index")
        ratio = EVERYWHERE[1] if sigma is None else float(torch.as_tensor(sigma).flatten()[0])
        k = 1.0 if step_index is None else float(step_index)
        noise = NoiseLevel(1.0, ratio, self.num_steps - k, k - 1, self.num_steps, VE)
        estimates, scale = x.chunk(2), self.scale_at(noise, scale)
        return estimates[1] if is_unguided(scale) else self.guide(estimates, Evaluation(None, noise, scale))[0]


@dataclass(kw_only=True)
class DynamicCFG(VanillaCFG):
    """Classifier-free guidance whose scale varies over the run, by default as in the release. Two branches."""

    schedule: ScheduleName = "release"


@dataclass(kw_only=True)
class ControlCFG(Guider):
    """Guidance by the text and by the control clip or image, each with a scale (Brooks et al. 2023, eq. 3).

    free + control_scale * (uncond - free) + scale * (cond - uncond), where free has neither text nor what is joined on
    the channels. The model must be one that training gave some clips without it (`control_dropout`,
    `noised_image_dropout`). Two branches with control_scale 1, which is CFG, or three.
    """

    control_scale: Annotated[float, Ge(0)] = 1.0

    def __post_init__(self):
        super().__post_init__()
        free = Pass("free", unconditional=True, zeroed=("concat",))
        self.passes = (UNCOND, COND) if self.control_scale == 1 else (free, UNCOND, COND)

    @property
    def continuous_at_one(self) -> bool:
        return super().continuous_at_one and self.control_scale == 1

    def check_network(self, network: Mapping) -> None:
        if network["in_channels"] == network["out_channels"]:
            raise ConfigError("guider_config: ControlCFG guides by a control clip or an image, and this model takes "
                              "neither; use VanillaCFG")

    def push(self, estimates, at, memory):
        uncond, cond = estimates["uncond"], estimates["cond"]
        if "free" not in estimates:
            return uncond, cond, None
        moved = (self.control_scale - 1) * (uncond - estimates["free"])
        return uncond + moved, cond + moved, None


@dataclass(kw_only=True)
class APG(Guider):
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1). Two branches.

    The difference cond - uncond is changed in three ways. `momentum` times its value at the last evaluation is added
    (negative in the paper; this reverses guidance where the difference falls quickly, as it does with few steps). Each
    row is shortened to the length `norm_threshold` if longer (the length grows with the root of the video's size;
    None: no limit). Only `eta` of its part along cond, which oversaturates, is kept. eta 1 without momentum and
    threshold is CFG.
    """

    eta: float = 0.0
    momentum: Annotated[float, Gt(-1), Lt(1)] = 0.0
    norm_threshold: AboveZero | None = None

    def push(self, estimates, at, memory):
        cond = estimates["cond"]
        away = cond - estimates["uncond"]
        if memory is not None:
            away = away + self.momentum * memory
        memory = away if self.momentum else None
        if self.norm_threshold is not None:
            away = away * (self.norm_threshold / row_dot(away, away).sqrt()).clamp(max=1)
        along = projection(away, cond)
        return cond - (away - (1 - self.eta) * along), cond, memory


@dataclass(kw_only=True)
class CFGZeroStar(Guider):
    """CFG whose unconditional velocity is scaled to be nearest to the conditional one. Two branches.

    s* = <v_c, v_u> / |v_u|^2 (CFG-Zero*, Fan et al. 2025, algorithm 1, without its zeroed first steps), where v is the
    velocity noise - x0 of the straight path from data to noise on any schedule: sigma v = x - (alpha + sigma) x0.
    """

    def push(self, estimates, at, memory):
        total = at.noise.alpha + at.noise.sigma
        uncond, cond = (at.x - total * estimates[name] for name in ("uncond", "cond"))
        return (at.x - projection(cond, uncond)) / total, estimates["cond"], None


@dataclass(kw_only=True)
class TangentialCFG(Guider):
    """CFG whose unconditional noise keeps only its part along what both branches share (TCFG, Kwon et al. 2025).

    Of the matrix whose two rows are the conditional and the unconditional noise estimate, (x - alpha x0) / sigma, the
    first right singular vector spans that part; the rest of the unconditional estimate, which leads off the data's
    manifold, is left out. Two branches.
    """

    def push(self, estimates, at, memory):
        alpha, sigma = at.noise.alpha, at.noise.sigma
        if alpha == 0:  # zero SNR: both noise estimates are x, so nothing is left out
            return estimates["uncond"], estimates["cond"], None
        cond, uncond = ((at.x - alpha * estimates[name]) / sigma for name in ("cond", "uncond"))
        return (at.x - sigma * projection(uncond, shared_direction(cond, uncond))) / alpha, estimates["cond"], None


def shared_direction(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return, for each row, the first right singular vector of the matrix with rows a and b (B, ...), of any length."""
    gram = torch.stack([torch.stack([row_dot(x, y).flatten() for y in (a, b)]) for x in (a, b)])
    gram = gram.cpu().double()  # small, and some devices have neither this dtype nor eigenvectors
    _, vectors = torch.linalg.eigh(gram.movedim(2, 0))  # (B, 2, 2), eigenvalues ascending
    weights = vectors[:, :, -1].to(a)
    shape = (-1, *(1,) * (a.ndim - 1))
    return weights[:, 0].view(shape) * a + weights[:, 1].view(shape) * b


@dataclass(kw_only=True)
class CFGPlusPlus(Guider):
    """CFG++ (Chung et al. 2024, algorithm 2): x0 is guided, and the noise that carries on is the unconditional one.

    `scale` is the paper's lambda, between 0 and 1. Samplers carry on the noise of the estimate that they are given, so
    this guider returns the estimate with which a first-order step to the next level, such as Euler's or DDIM's, arrives
    where CFG++ does: uncond + lambda * alpha' / (alpha' - alpha * sigma' / sigma) * (cond - uncond), with ' for the
    next level. Two branches.
    """

    continuous_at_one = False

    scale: Share

    def __post_init__(self):
        super().__post_init__()
        if self.schedule != "constant":
            raise ConfigError(f"guider_config.params.schedule: {self.schedule} gives scales above 1, which CFGPlusPlus "
                              "does not take; use constant, if need be with sigma_lo and sigma_hi")

    def push(self, estimates, at, memory):
        uncond = estimates["uncond"]
        return uncond, uncond + ahead(at) * (estimates["cond"] - uncond), None


def ahead(at: Evaluation) -> float:
    """Return alpha' / (alpha' - alpha * sigma' / sigma) for a level and the next one ('); 1 if that is clean."""
    if at.then is None or at.then.clean or at.noise.clean:
        return 1.0
    return at.then.alpha / (at.then.alpha - at.noise.alpha * at.then.sigma / at.noise.sigma)
