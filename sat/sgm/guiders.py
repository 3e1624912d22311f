"""Guiders: which branches a guided step evaluates, how they are combined, and how strongly.

A guider lists its branches in `passes`. All are evaluated where its scale is not 1, elsewhere only the conditional one.
Most guiders push a positive estimate away from a negative one, so that a new guider is a choice of branches and `push`.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Lt, MinLen

from common.errors import ConfigError
from common.kinds import AboveZero, Count, Part, Share, Text
from common.tensors import append_dims
from configuration.targets import instantiate_from_config
from sgm.guidance_scale import EVERYWHERE, GuidanceScale, Scale, ScheduleName, is_unguided
from sgm.noise_schedule import NoiseLevel
from sgm.parameterization import VE
from sgm.sampling_utils import rescaled

NO_THRESHOLDING = {"target": "sgm.sampling_utils.NoDynamicThresholding"}


@dataclass(frozen=True)
class Pass:
    """A branch: which conditioning the network is given, and additional network inputs."""

    unconditional: bool = False
    inputs: Mapping = field(default_factory=dict)


COND, UNCOND = Pass(), Pass(unconditional=True)


@dataclass(frozen=True)
class Evaluation:
    """The point at which x0 was estimated: noisy latents x (B, ...), noise level, scale (a number or one per row)."""

    x: torch.Tensor | None
    noise: NoiseLevel
    scale: Scale


@dataclass(frozen=True)
class WeakNetwork:
    """The weaker, second transformer of a guider: its weights, and its `{target, params}` if not those of the first."""

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
    """Base of the guiders: negative + scale * (positive - negative), with the scale of GuidanceScale.

    `dyn_thresh_config` names the class that combines the two and limits the range (`sgm.sampling_utils`). `rescale`,
    from 0 to 1, is how far the standard deviation of each row is brought back to that of the conditional estimate (CFG
    rescale, Lin et al. 2024, eq. 15 and 16, on estimates of x0).
    """

    passes: ClassVar[tuple[Pass, ...]] = (UNCOND, COND)
    weak: ClassVar["WeakNetwork | None"] = None

    rescale: Share = 0.0
    dyn_thresh_config: Part | None = None
    dyn_thresh: Any = field(init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        self.dyn_thresh = instantiate_from_config(self.dyn_thresh_config or NO_THRESHOLDING)

    def check_network(self, network: Mapping) -> None:
        """Raise ConfigError if a transformer with these parameters cannot evaluate the branches."""

    def push(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory):
        """Return (negative, positive, memory) from one estimate (B, ...) per branch; `memory` is None at first."""
        negative, positive = estimates
        return negative, positive, None

    def guide(self, estimates: Sequence[torch.Tensor], at: Evaluation, memory=None) -> tuple[torch.Tensor, Any]:
        """Return the guided estimate (B, ...) from one estimate per branch, and `memory` for the next evaluation."""
        negative, positive, memory = self.push(estimates, at, memory)
        guided = self.dyn_thresh(negative, positive, at.scale)
        cond = estimates[self.passes.index(COND)]
        return (rescaled(guided, cond, self.rescale) if self.rescale else guided), memory


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
    """CFG whose unconditional velocity is scaled to be nearest to the conditional one. Two branches.

    s* = <v_c, v_u> / |v_u|^2 (CFG-Zero*, Fan et al. 2025, algorithm 1, without its zeroed first steps), where v is the
    velocity noise - x0 of the straight path from data to noise on any schedule: sigma v = x - (alpha + sigma) x0.
    """

    def push(self, estimates, at, memory):
        total = at.noise.alpha + at.noise.sigma
        uncond, cond = (at.x - total * estimate for estimate in estimates)
        return (at.x - projection(cond, uncond)) / total, estimates[1], None


@dataclass(kw_only=True)
class Autoguidance(Guider):
    """Guidance away from a weaker network with the same conditioning (Karras et al. 2024, eq. 3). Two branches.

    `ckpt_path`: the weaker transformer's weights, such as an earlier checkpoint; `network_config`: its target and
    params if they differ from the first's, as for a smaller one.
    """

    passes = (Pass(inputs={"weak": True}), COND)

    ckpt_path: Text | None = None
    network_config: Part | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ckpt_path is None:
            raise ConfigError("guider_config.params.ckpt_path: missing; Autoguidance needs a second, weaker checkpoint "
                              "of the transformer: give its folder or file")
        self.weak = WeakNetwork(self.ckpt_path, self.network_config)


@dataclass(kw_only=True)
class PerturbedAttentionGuidance(Guider):
    """Guidance away from the network with identity attention in `layers`, from 0 (Ahn et al. 2024, section 4).

    In those layers each token attends to itself alone; so do text tokens, which take part in the same attention. Two
    branches; three if `cfg_scale` is not 1, which adds (cfg_scale - 1) * (cond - uncond). `scale` is 1 + the paper's s.
    """

    layers: Annotated[Sequence[Count], MinLen(1)]
    cfg_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        perturbed = Pass(inputs={"identity_attention": tuple(self.layers)})
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
    """Return the scalar product of each row of a and b: (B, ...) -> (B, 1, ...)."""
    return append_dims((a * b).flatten(1).sum(dim=1), a.ndim)


def projection(a: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Return the projection of each row of `a` onto the same row of `onto`; zero where that is zero."""
    return row_dot(a, onto) / row_dot(onto, onto).clamp(min=torch.finfo(onto.dtype).tiny) * onto
