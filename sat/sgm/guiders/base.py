"""The base of the guiders: branches, their estimates, and the push away from one and towards another.

A guider lists its branches in `passes`. All are evaluated where its scale is not 1, elsewhere only the conditional one.
Most guiders push a positive estimate away from a negative one, so that a new guider is a choice of branches and `push`.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from common.errors import ConfigError
from common.kinds import Part, Share
from common.suggestions import nearest
from common.tensors import append_dims
from configuration.targets import instantiate_from_config
from sgm.guidance_scale import GuidanceScale, Scale
from sgm.noise_schedule import NoiseLevel
from sgm.sampling_utils import rescaled

NO_THRESHOLDING = {"target": "sgm.sampling_utils.NoDynamicThresholding"}


@dataclass(frozen=True)
class Pass:
    """A branch: its name, which conditioning the network is given, and additional network inputs.

    Of the conditioning, the inputs named in `zeroed` are given as zeros. Of the inputs, `weak: True` asks for the
    guider's weaker network; the others are arguments of the transformer, such as `skip_layers` (see
    `dit_video_concat.DiffusionTransformer.forward`).
    """

    name: str
    unconditional: bool = False
    inputs: Mapping = field(default_factory=dict)
    zeroed: Sequence[str] = ()


COND, UNCOND = Pass("cond"), Pass("uncond", unconditional=True)


@dataclass(frozen=True)
class Estimates:
    """One estimate of x0 (B, ...) for each branch, by the branch's name, or in the order of the branches."""

    passes: Sequence[Pass]
    tensors: Sequence[torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        for one, tensor in zip(self.passes, self.tensors, strict=True):
            if one.name == name:
                return tensor
        names = [one.name for one in self.passes]
        raise ConfigError(f"guider: no branch {name!r} was evaluated, only {', '.join(names)}{nearest(name, names)}")

    def __contains__(self, name: str) -> bool:
        return any(one.name == name for one in self.passes)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True)
class Evaluation:
    """The point at which x0 was estimated: noisy latents x (B, ...), noise level, scale (a number or one per row).

    `then` is the schedule's next level, None outside a run and where noise is added to a clip (inversion).
    """

    x: torch.Tensor | None
    noise: NoiseLevel
    scale: Scale
    then: NoiseLevel | None = None


@dataclass(frozen=True)
class WeakNetwork:
    """The weaker, second transformer of a guider: its weights, and its `{target, params}` if not those of the first."""

    ckpt_path: str
    network_config: Mapping | None = None


class IdentityGuider:
    """No guidance: the conditional estimate alone."""

    passes: ClassVar[tuple[Pass, ...]] = (COND,)

    weak: ClassVar[None] = None

    def passes_at(self, noise: NoiseLevel) -> Sequence[Pass]:
        return self.passes

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

    @property
    def continuous_at_one(self) -> bool:
        """True if the guided estimate tends to the conditional one as the scale tends to 1."""
        return self.schedule == "constant" and self.dyn_thresh_config is None

    def check_network(self, network: Mapping) -> None:
        """Raise ConfigError if a transformer with these parameters cannot evaluate the branches."""

    def passes_at(self, noise: NoiseLevel) -> Sequence[Pass]:
        """Return those of `passes` that are evaluated at this level, where the scale is not 1."""
        return self.passes

    def push(self, estimates: Estimates, at: Evaluation, memory):
        """Return (negative, positive, memory) from one estimate (B, ...) per branch; `memory` is None at first."""
        return estimates["uncond"], estimates["cond"], None

    def guide(self, estimates: Sequence[torch.Tensor] | Estimates, at: Evaluation, memory=None
              ) -> tuple[torch.Tensor, Any]:
        """Return the guided estimate (B, ...) from one estimate per branch, and `memory` for the next evaluation."""
        if not isinstance(estimates, Estimates):
            estimates = Estimates(self.passes_at(at.noise), estimates)
        negative, positive, memory = self.push(estimates, at, memory)
        guided = self.dyn_thresh(negative, positive, at.scale)
        return (rescaled(guided, estimates["cond"], self.rescale) if self.rescale else guided), memory


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the scalar product of each row of a and b: (B, ...) -> (B, 1, ...)."""
    return append_dims((a * b).flatten(1).sum(dim=1), a.ndim)


def projection(a: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """Return the projection of each row of `a` onto the same row of `onto`; zero where that is zero."""
    return row_dot(a, onto) / row_dot(onto, onto).clamp(min=torch.finfo(onto.dtype).tiny) * onto
