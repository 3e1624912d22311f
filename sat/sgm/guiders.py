"""Guidance: which passes through the network an estimate takes, how they combine, and how strongly.

A guider names its `passes`; away from the conditional one alone they are taken where its scale is not 1. Most push the
conditional estimate away from another one, the negative, so that a new guider is a choice of passes and `push`.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from common.errors import ConfigError
from common.tensors import append_dims
from configuration.targets import instantiate_from_config
from sgm.guidance_scale import EVERYWHERE, GuidanceScale, Scale, check_numbers
from sgm.noise_schedule import VE, NoiseLevel
from sgm.sampling_utils import rescaled

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


@dataclass(frozen=True)
class WeakNetwork:
    """The second transformer of a guider: its weights, and its `{target, params}` where they are not the first's."""

    ckpt_path: str
    network_config: Mapping | None = None


class IdentityGuider:
    """No guidance: the conditional estimate alone."""

    passes: ClassVar[tuple[Pass, ...]] = (COND,)

    weak: ClassVar[None] = None

    def needs_timestep(self) -> bool:
        return False

    def check_network(self, network: Mapping) -> None:
        pass

    def scale_at(self, noise: NoiseLevel, scale: Scale | None = None) -> float:
        return 1.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor | None, step_index: int | None = None,
                 scale: Scale | None = None) -> torch.Tensor:
        return x


@dataclass(kw_only=True)
class Guider(GuidanceScale):
    """Base of guidance: negative + scale * (positive - negative), the scale as in GuidanceScale.

    `dyn_thresh_config` names what combines the two and keeps the range in check (`sgm.sampling_utils`). `rescale`
    brings the deviation of each row's result back to that of the conditional estimate: 0 not at all, 1 wholly (CFG
    rescale, Lin et al. 2024, eq. 15 and 16, on estimates of x0).
    """

    passes: ClassVar[tuple[Pass, ...]] = (UNCOND, COND)
    weak: ClassVar["WeakNetwork | None"] = None

    rescale: float = 0.0
    dyn_thresh_config: Mapping | None = None
    dyn_thresh: Any = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_numbers({"rescale": self.rescale})
        if not 0 <= self.rescale <= 1:
            raise ConfigError(f"guider_config.params.rescale: {self.rescale} is a share, between 0 and 1")
        self.dyn_thresh = instantiate_from_config(self.dyn_thresh_config or NO_THRESHOLDING)

    def check_network(self, network: Mapping) -> None:
        """Raises ConfigError for a transformer of these parameters that the passes cannot be asked of."""

    def push(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory):
        """(negative, positive, memory) from one estimate (B, ...) per pass; `memory` is None at first."""
        negative, positive = estimates
        return negative, positive, None

    def guide(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory=None) -> tuple[torch.Tensor, Any]:
        """The guided estimate (B, ...) from one estimate per pass, and what to give the next evaluation as `memory`."""
        negative, positive, memory = self.push(estimates, at, memory)
        guided = self.dyn_thresh(negative, positive, at.scale)
        cond = estimates[self.passes.index(COND)]
        return (rescaled(guided, cond, self.rescale) if self.rescale else guided), memory


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


@dataclass(kw_only=True)
class APG(Guider):
    """Adaptive projected guidance (Sadat et al. 2024, algorithm 1). Two passes.

    The difference cond - uncond gathers `momentum` times the one before (negative in the paper, which pushes back where
    the difference falls quickly, as it does in few steps); is shortened to `norm_threshold` (the length
    of a whole row, so it grows with the root of the video's size; None: as it is); and keeps `eta` of its part along
    cond, which oversaturates. eta 1 with neither momentum nor threshold is CFG.
    """

    eta: float = 0.0
    momentum: float = 0.0
    norm_threshold: float | None = None

    def __post_init__(self):
        super().__post_init__()
        limit = 1.0 if self.norm_threshold is None else self.norm_threshold
        check_numbers({"eta": self.eta, "momentum": self.momentum, "norm_threshold": limit})
        if not (-1 < self.momentum < 1 and limit > 0):
            raise ConfigError("guider_config.params: needs momentum between -1 and 1 and norm_threshold above 0, "
                              f"not {self.momentum} and {self.norm_threshold}")

    def push(self, estimates, at, memory):
        uncond, cond = estimates
        away = cond - uncond
        if memory is not None:
            away = away + self.momentum * memory
        memory = away if self.momentum else None
        if self.norm_threshold is not None:
            away = away * (self.norm_threshold / row_dot(away, away).sqrt()).clamp(max=1)
        along = projection(away, cond)
        return cond - (away - (1 - self.eta) * along), cond, memory


@dataclass(kw_only=True)
class CFGZeroStar(Guider):
    """CFG whose unconditional velocity is scaled to lie nearest to the conditional one. Two passes.

    s* = <v_c, v_u> / |v_u|^2 (CFG-Zero*, Fan et al. 2025, algorithm 1, without its zeroed first steps), where v is the
    velocity noise - x0 of the straight path from data to noise on any schedule: sigma v = x - (alpha + sigma) x0.
    """

    def push(self, estimates, at, memory):
        total = at.noise.alpha + at.noise.sigma
        uncond, cond = (at.x - total * estimate for estimate in estimates)
        return (at.x - projection(cond, uncond)) / total, estimates[1], None


@dataclass(kw_only=True)
class Autoguidance(Guider):
    """Away from a weaker network under the same conditioning (Karras et al. 2024, eq. 3). One pass of each.

    `ckpt_path`: the weaker transformer's weights, such as a younger checkpoint; `network_config`: its target and
    params where it is smaller than the first.
    """

    passes = (Pass(inputs={"weak": True}), COND)

    ckpt_path: str | None = None
    network_config: Mapping | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ckpt_path is None:
            raise ConfigError("guider_config.params.ckpt_path: missing; Autoguidance guides by a second, weaker "
                              "checkpoint of the transformer, give its folder or file")
        self.weak = WeakNetwork(self.ckpt_path, self.network_config)


@dataclass(kw_only=True)
class PerturbedAttentionGuidance(Guider):
    """Away from the network whose attention in `layers` (from 0) sees each token alone (Ahn et al. 2024, section 4).

    Two passes; three where `cfg_scale` is not 1, which adds (cfg_scale - 1) * (cond - uncond). `scale` is 1 + the
    paper's s. Text tokens take part in the transformer's attention, so they too see themselves alone.
    """

    layers: Sequence[int]
    cfg_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_numbers({"cfg_scale": self.cfg_scale})
        layers = self.layers
        if isinstance(layers, str) or not layers or any(type(i) is not int or i < 0 for i in layers):
            raise ConfigError(f"guider_config.params.layers: {layers!r} must be numbers of layers, such as [14]")
        perturbed = Pass(inputs={"identity_attention": tuple(layers)})
        self.passes = (perturbed, COND) if self.cfg_scale == 1 else (perturbed, UNCOND, COND)

    def check_network(self, network):
        if max(self.layers) >= network["num_layers"]:
            raise ConfigError(f"guider_config.params.layers: {list(self.layers)}, but the transformer's layers are 0 "
                              f"to {network['num_layers'] - 1}")

    def push(self, estimates, at, memory):
        perturbed, cond = estimates[0], estimates[-1]
        if self.cfg_scale == 1:
            return perturbed, cond, None
        added = (self.cfg_scale - 1) * (cond - estimates[1])
        return perturbed + added, cond + added, None


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B, ...) -> (B, 1, ...): the scalar product of each row."""
    return append_dims((a * b).flatten(1).sum(dim=1), a.ndim)


def projection(a: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Each row's part along that row of `onto`; zero where that is zero."""
    return row_dot(a, onto) / row_dot(onto, onto).clamp(min=torch.finfo(onto.dtype).tiny) * onto
