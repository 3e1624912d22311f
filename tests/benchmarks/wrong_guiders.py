"""Guiders that are wrong on purpose, each in one way that its docstring says."""
from dataclasses import dataclass, replace

import torch

from sgm.guiders import VanillaCFG


@dataclass(kw_only=True)
class Pushing(VanillaCFG):
    """A guider whose pair is `wrong`."""

    def push(self, estimates, at, memory):
        return *self.wrong(estimates["uncond"], estimates["cond"]), None


class Faint(Pushing):
    """It leads away by next to nothing."""

    def wrong(self, uncond, cond):
        return cond - 1e-5 * (cond - uncond), cond


class OneScale(Pushing):
    """It takes the scale of the first row for all."""

    def push(self, estimates, at, memory):
        scale = float(torch.as_tensor(at.scale).flatten()[0])
        return estimates["cond"] + (estimates["uncond"] - estimates["cond"]) * scale / 3, estimates["cond"], None


class Unbounded(VanillaCFG):
    """sigma_lo and sigma_hi have no effect."""

    def scale_at(self, noise, scale=None):
        return self.scale if scale is None else scale


class OneSided(VanillaCFG):
    """sigma_lo has no effect."""

    def scale_at(self, noise, scale=None):
        return replace(self, sigma_lo=0.0).scale_at(noise, scale) if self.sigma_lo else super().scale_at(noise, scale)


class Proportional(VanillaCFG):
    """Guidance is 5 % stronger than its scale says, and none for scale 1."""

    def scale_at(self, noise, scale=None):
        return 1 + 1.05 * (super().scale_at(noise, scale) - 1)


class Plain(VanillaCFG):
    """rescale has no effect."""

    def guide(self, estimates, at, memory=None):
        return replace(self, rescale=0.0).guide(estimates, at, memory) if self.rescale else super().guide(
            estimates, at, memory)


class Nothing(Pushing):
    """It leads from the conditional estimate to itself."""

    def wrong(self, uncond, cond):
        return cond, cond


class Swapped(Pushing):
    """It leads towards the unconditional estimate."""

    def wrong(self, uncond, cond):
        return cond, uncond


class Backwards(Pushing):
    """It leads away from the conditional estimate, beginning there."""

    def wrong(self, uncond, cond):
        return 2 * cond - uncond, cond


class MutatesEstimates(Pushing):
    """It changes an estimate in place."""

    def wrong(self, uncond, cond):
        return uncond.mul_(0.9), cond


class DrawsNumbers(Pushing):
    """It draws from torch's global state."""

    def wrong(self, uncond, cond):
        return uncond + 0 * torch.randn_like(uncond), cond


@dataclass(kw_only=True)
class Stronger(VanillaCFG):
    """The scale is larger than asked for."""

    def scale_at(self, noise, scale=None):
        found = super().scale_at(noise, scale)
        return found if found == 1 else found + 0.3


@dataclass(kw_only=True)
class Stubborn(VanillaCFG):
    """The scale of a call has no effect."""

    def scale_at(self, noise, scale=None):
        return super().scale_at(noise, scale if scale == 1 else None)
