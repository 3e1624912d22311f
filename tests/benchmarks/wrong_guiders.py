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


class SwappedOnce(VanillaCFG):
    """In one step it leads the wrong way."""

    def push(self, estimates, at, memory):
        uncond, cond = estimates["uncond"], estimates["cond"]
        return (2 * cond - uncond if at.noise.index == 7 else uncond), cond, None


class WithoutAlpha(VanillaCFG):
    """It leads away the further the larger sigma is, and not sigma / alpha."""

    def push(self, estimates, at, memory):
        uncond, cond = estimates["uncond"], estimates["cond"]
        return cond - min(at.noise.sigma, 2) * (cond - uncond), cond, None


class Half(Pushing):
    """It computes in 16 bits."""

    def wrong(self, uncond, cond):
        return uncond.half().to(cond), cond


class Narrow(Pushing):
    """It returns 32 bits whatever it is given."""

    def wrong(self, uncond, cond):
        return uncond.float(), cond.float()


class MixesMany(Pushing):
    """Three rows and more are mixed."""

    def wrong(self, uncond, cond):
        return (uncond.mean(0, keepdim=True).expand_as(uncond) if len(uncond) > 2 else uncond), cond


class Remembers(VanillaCFG):
    """Its memory is an attribute, which a run begins by clearing."""

    def push(self, estimates, at, memory):
        uncond, cond = estimates["uncond"], estimates["cond"]
        last = cond - uncond if at.noise.index == 0 else self.last
        self.last = cond - uncond
        return cond - (0.9 * self.last + 0.1 * last), cond, None


class Sometimes(VanillaCFG):
    """It does not guide the fiftieth time that it is asked."""

    def push(self, estimates, at, memory):
        self.asked = getattr(self, "asked", 0) + 1
        return estimates["cond" if self.asked % 50 == 0 else "uncond"], estimates["cond"], None


@dataclass(kw_only=True)
class Idle(VanillaCFG):
    """A parameter of its own has no effect."""

    strength: float = 0.5


@dataclass(kw_only=True)
class BySigma(VanillaCFG):
    """sigma_lo and sigma_hi are compared with sigma, and not with sigma / alpha."""

    def scale_at(self, noise, scale=None):
        return super().scale_at(replace(noise, alpha=1.0), scale)
