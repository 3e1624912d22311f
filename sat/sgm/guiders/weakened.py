"""Guiders away from a weaker estimate: by a weaker network, or by this one with parts of it left out."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from common.errors import ConfigError
from common.kinds import AboveZero, Count, Part, Share, Text
from sgm.guiders.base import COND, UNCOND, Guider, Pass, WeakNetwork
from sgm.noise_schedule import NoiseLevel


@dataclass(kw_only=True)
class Autoguidance(Guider):
    """Guidance away from a weaker network with the same conditioning (Karras et al. 2024, eq. 3). Two branches.

    `ckpt_path`: the weaker transformer's weights, such as an earlier checkpoint; `network_config`: its target and
    params if they differ from the first's, as for a smaller one.
    """

    passes = (Pass("weak", inputs={"weak": True}), COND)

    ckpt_path: Text | None = None
    network_config: Part | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.ckpt_path is None:
            raise ConfigError("guider_config.params.ckpt_path: missing; Autoguidance needs a second, weaker checkpoint "
                              "of the transformer: give its folder or file")
        self.weak = WeakNetwork(self.ckpt_path, self.network_config)

    def push(self, estimates, at, memory):
        return estimates["weak"], estimates["cond"], None


@dataclass(kw_only=True)
class WeakenedGuidance(Guider):
    """Base of the guiders away from the network without some of its `layers`, numbered from 0.

    The guided estimate is cond + (scale - 1) * (cond - weakened) + (cfg_scale - 1) * (cond - uncond): two branches, or
    three if `cfg_scale` is not 1. The weakened branch is evaluated from the share `start` of the steps to the share
    `stop`; outside them there is classifier-free guidance alone, or none.
    """

    WEAKENING: ClassVar[str]  # the network input that takes the layers

    layers: Annotated[Sequence[Count], MinLen(1)]
    cfg_scale: AboveZero = 1.0
    start: Share = 0.0
    stop: Share = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.start < self.stop:
            raise ConfigError(f"guider_config.params: needs start < stop, not {self.start} and {self.stop}")
        weakened = Pass("weakened", inputs={self.weakening(): tuple(self.layers)})
        self.passes = (weakened, COND) if self.cfg_scale == 1 else (weakened, UNCOND, COND)

    @property
    def continuous_at_one(self) -> bool:
        return super().continuous_at_one and self.cfg_scale == 1

    def weakening(self) -> str:
        """Return the name of the network input that takes the layers."""
        return self.WEAKENING

    def check_network(self, network: Mapping) -> None:
        if max(self.layers) >= network["num_layers"]:
            raise ConfigError(f"guider_config.params.layers: {list(self.layers)}, but the transformer's layers are 0 "
                              f"to {network['num_layers'] - 1}")

    def passes_at(self, noise: NoiseLevel) -> Sequence[Pass]:
        weakened = self.start <= noise.index / noise.num_steps < self.stop
        return self.passes if weakened else self.passes[1:]

    def push(self, estimates, at, memory):
        positive = cond = estimates["cond"]
        if "uncond" in estimates:
            positive = cond + (self.cfg_scale - 1) * (cond - estimates["uncond"])
        if "weakened" not in estimates:
            return positive, positive, None
        return positive - (cond - estimates["weakened"]), positive, None


@dataclass(kw_only=True)
class PerturbedAttentionGuidance(WeakenedGuidance):
    """Guidance away from the network with identity attention in `layers` (Ahn et al. 2024, section 4).

    In those layers each token attends to itself alone; so do text tokens, which take part in the same attention.
    `scale` is 1 + the paper's s. Two branches, or three.
    """

    WEAKENING = "identity_attention"


@dataclass(kw_only=True)
class SkipLayerGuidance(WeakenedGuidance):
    """Guidance away from the network without `layers`, usually early in the run: by default from 1 to 20 % of it.

    `scale` is 1 + the scale of skip-layer guidance as in other programs. Two branches, or three.
    """

    WEAKENING = "skip_layers"

    start: Share = 0.01
    stop: Share = 0.2


@dataclass(kw_only=True)
class SpatioTemporalSkipGuidance(WeakenedGuidance):
    """Guidance away from the network without `layers`, or without their attention (STG, Hyung et al. 2024, section 4).

    `skip`: attention, the paper's STG-A, or layer, its STG-R. `scale` is 1 + the paper's w, which is 1 to 2. Two
    branches, or three.
    """

    skip: Literal["attention", "layer"] = "attention"

    def weakening(self) -> str:
        return {"attention": "skip_attention", "layer": "skip_layers"}[self.skip]
