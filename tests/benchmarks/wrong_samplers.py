"""Samplers that are wrong on purpose, each in one way that its docstring says."""
import math
from dataclasses import dataclass, replace

import torch

from sgm.sampling import (
    DPMPP2MSampler,
    DPMPP2SAncestralSampler,
    DPMPPSDESampler,
    EulerAncestralSampler,
    EulerEDMSampler,
    HeunEDMSampler,
    SDEDPMPP2MSampler,
    VideoDDIMSampler,
)
from sgm.sampling.guided import StepState
from sgm.sampling.steps import ancestral_split, churn, decay, euler, second_order, stochastic


class TooMuchNoise(EulerAncestralSampler):
    """Noise of a deviation that is 4 % too large."""

    factor = 1.04

    def add_noise(self, x, now, then, up, run):
        return super().add_noise(x, now, then, self.factor * up, run)


class TooLittleNoise(TooMuchNoise):
    """Noise of a deviation that is 2 % too small."""

    factor = 0.98


@dataclass(kw_only=True)
class IndependentStages(DPMPPSDESampler):
    """DPM++ SDE whose first stage has noise of its own."""

    def noises(self, now, middle, then, run):
        return run.draw(now, middle), run.draw(now, then)

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return denoised, denoised, state
        middle = run.schedule.at_ratio(math.sqrt(now.ratio * then.ratio), now.index + 0.5)
        early, whole = self.noises(now, middle, then, run)
        estimate, state = run.predict(stochastic(x, now, middle, denoised, 1.0, early), middle, state)
        return stochastic(x, now, then, estimate, 1.0, whole), denoised, state


class OppositeStages(IndependentStages):
    """DPM++ SDE whose second stage has the noise of the first with its sign changed."""

    def noises(self, now, middle, then, run):
        early, late = run.draw(now, middle), run.draw(middle, then)
        share = decay(now, then) / (1 + decay(now, then))
        return early, math.sqrt(1 - share) * late - math.sqrt(share) * early


class DrawnTwice(EulerAncestralSampler):
    """Two draws of one interval, added up: right with fresh noise alone."""

    def add_noise(self, x, now, then, up, run):
        return x + then.alpha * up * (run.draw(now, then) + run.draw(now, then)) / math.sqrt(2)


class OtherPath(EulerAncestralSampler):
    """Noise that is right, and not that of the step."""

    def add_noise(self, x, now, then, up, run):
        return x + then.alpha * up * run.draw(now, then).roll(int(now.index), dims=-1)


class Deaf(EulerAncestralSampler):
    """s_noise has no effect."""

    def add_noise(self, x, now, then, up, run):
        return x + then.alpha * up * run.draw(now, then)


class Global(EulerAncestralSampler):
    """Noise from torch's global state."""

    def add_noise(self, x, now, then, up, run):
        return x + then.alpha * up * torch.randn_like(x)


class Hasty(EulerAncestralSampler):
    """More than it can."""

    strong_order, weak_order, convergence_order = 2, 2, 2


class OfTheStepBefore(EulerAncestralSampler):
    """Noise of the step before: an index that is off by one."""

    def step(self, x, now, then, run, state):
        before, (denoised, after) = state.history or (now, then), run.predict(x, now, state)
        below, up = self.below(now, then)
        late = self.below(*before)[1] * then.ratio / before[1].ratio if up > 0 else up
        return self.add_noise(euler(x, now, below, denoised), now, then, late, run), denoised, after.with_history(
            (now, then))


class OneForAllFrames(EulerAncestralSampler):
    """The noise of the first frame in all frames."""

    def add_noise(self, x, now, then, up, run):
        noise = run.draw(now, then)[:, :1].expand_as(x)
        return x + self.s_noise * then.alpha * up * noise


class NoiseAtTheEnd(EulerAncestralSampler):
    """A tenth too much noise in the last step that adds any."""

    def add_noise(self, x, now, then, up, run):
        return super().add_noise(x, now, then, up * (1.1 if now.index == now.num_steps - 2 else 1), run)


class SameEta(EulerAncestralSampler):
    """eta has no effect."""

    def below(self, now, then):
        down, up = ancestral_split(now, then, float(self.eta > 0))
        return replace(then, sigma=then.alpha * down), up


class ChurnsTooMuch(HeunEDMSampler):
    """8 % too much noise, which is only added if s_churn is given."""

    def churned(self, x, now, then, run):
        raised, hat = super().churned(x, now, then, run)
        return (x + 1.08 * (raised * now.alpha / hat.alpha - x), hat) if hat is not now else (x, now)


class ChurnsEverywhere(EulerEDMSampler):
    """s_tmin and s_tmax have no effect."""

    def churned(self, x, now, then, run):
        if self.s_churn == 0 or math.isinf(now.ratio):
            return x, now
        gamma = min(self.s_churn / now.num_steps, math.sqrt(2) - 1)
        return churn(x, now, gamma, self.s_noise * run.draw(now, then), run.schedule)


class NeverChurns(EulerEDMSampler):
    """s_churn has no effect."""

    def churned(self, x, now, then, run):
        return x, now


class KeepsLevel(HeunEDMSampler):
    """Churned latents are taken to be at the level before."""

    def churned(self, x, now, then, run):
        return super().churned(x, now, then, run)[0], now


class AsksLate(EulerEDMSampler):
    """The estimate is asked for at the next level."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now if then.clean else then, state)
        return euler(x, now, then, denoised), denoised, state


class StepsTooFar(EulerEDMSampler):
    """Steps that are 3 % too long, but for the last one."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        further = then if math.isinf(now.ratio) else replace(then, sigma=then.sigma - 0.03 * (now.sigma - then.sigma))
        return euler(x, now, then if then.clean else further, denoised), denoised, state


class EulerAbove(HeunEDMSampler):
    """Heun's method without its correction above sigma 5, where it would be missed in no result."""

    def step(self, x, now, then, run, state):
        if now.ratio < 5 or math.isinf(now.ratio):
            return super().step(x, now, then, run, state)
        denoised, state = run.predict(x, now, state)
        _, state = run.predict(x, now, state)
        return euler(x, now, then, denoised), denoised, state


class Nearly(EulerEDMSampler):
    """Euler-Maruyama's method, whose latents are nearly at their level."""

    exact_for_one_clip = False
    convergence_order = None

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean or math.isinf(now.ratio):
            return denoised, denoised, state
        far = 2 * (then.ratio - now.ratio) * (x / now.alpha - denoised) / now.ratio
        noise = math.sqrt(2 * now.ratio * (now.ratio - then.ratio)) * run.draw(now, then)
        return then.alpha * (x / now.alpha + far + noise), denoised, state


class Broken(EulerEDMSampler):
    """It raises an error of Python's."""

    def step(self, x, now, then, run, state):
        return x / len(None), x, state


class Modest(DPMPP2SAncestralSampler):
    """Less than it can."""

    weak_order = 1


class Silent(EulerAncestralSampler):
    """No orders with noise."""

    strong_order = weak_order = None


class Loud(IndependentStages):
    """An order without noise, which it always has."""

    convergence_order = 2


@dataclass(kw_only=True)
class WrongWayRound(DPMPP2MSampler):
    """2M with the ratio of the steps upside down, which even steps do not show."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        estimate = denoised
        if state.history is not None and not then.clean and not math.isinf(state.history[1]):
            last, lamb = state.history
            estimate = denoised + (denoised - last) * (now.lamb - lamb) / (2 * (then.lamb - now.lamb))
        return euler(x, now, then, estimate), denoised, state.with_history((denoised, now.lamb))


class Forgetful(HeunEDMSampler):
    """Heun's method without its correction in one step."""

    evaluates = False

    def step(self, x, now, then, run, state):
        if now.index != now.num_steps // 2:
            return super().step(x, now, then, run, state)
        denoised, state = run.predict(x, now, state)
        if self.evaluates:
            _, state = run.predict(x, now, state)
        return euler(x, now, then, denoised), denoised, state


class SecretlyForgetful(Forgetful):
    """The same, with an evaluation that it does not use."""

    evaluates = True


class StopsShort(HeunEDMSampler):
    """The last noise stays."""

    def step(self, x, now, then, run, state):
        if not then.clean:
            return super().step(x, now, then, run, state)
        denoised, state = run.predict(x, now, state)
        return x / now.alpha, denoised, state


class InPlace(VideoDDIMSampler):
    """Its input changes."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        x.mul_(0.5)
        return out, denoised, state


class LosesCount(HeunEDMSampler):
    """The state of the second evaluation is lost."""

    def step(self, x, now, then, run, state):
        denoised, later = run.predict(x, now, state)
        out, _, _ = super().step(x, now, then, run, state)
        return out, denoised, later


@dataclass(kw_only=True)
class Keeps(DPMPP2MSampler):
    """Its history is an attribute."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        older, self.kept = getattr(self, "kept", None), (denoised, now.lamb)
        older = None if older is None or older[1] >= now.lamb else older
        return euler(x, now, then, second_order(denoised, older, now, then)), denoised, state


class Unguided(HeunEDMSampler):
    """The guider has no effect."""

    def step(self, x, now, then, run, state):
        return super().step(x, now, then, replace(run, predict=replace(run.predict, scale=1.0)), state)


class OfYesterday(VideoDDIMSampler):
    """Steps use the estimate of the step before."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        older = denoised if state.history is None else state.history
        return euler(x, now, then, older), denoised, state.with_history(denoised)


class Coarse(VideoDDIMSampler):
    """float32 latents are rounded to 16 bits."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        return (out.half().float() if out.dtype == torch.float32 else out), denoised, state


class Narrow(HeunEDMSampler):
    """One step is computed in float32."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x.float() if now.index == 5 else x, now, then, run, state)
        return out.to(x), denoised.to(x), state


class Odd(VideoDDIMSampler):
    """With an odd number of steps the middle one is too long."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        factor = 0.9 if now.index == now.num_steps / 2 - 0.5 and not then.clean else 1.0
        return factor * euler(x, now, then, denoised), denoised, state


class Limited(HeunEDMSampler):
    """The result is limited to numbers from -3 to 3."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        return (out.clamp(-3, 3) if then.clean else out), denoised, state


class Rounded(EulerAncestralSampler):
    """Noise is rounded to 16 bits."""

    def add_noise(self, x, now, then, up, run):
        return x if up == 0 else x + self.s_noise * then.alpha * up * run.draw(now, then).bfloat16().to(x)


class EqualSteps(SDEDPMPP2MSampler):
    """SDE-2M with the weights of equal steps."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        last = denoised if state.history is None or then.clean else state.history
        noise = None if then.clean else run.draw(now, then)
        return (stochastic(x, now, then, 1.5 * denoised - 0.5 * last, 1.0, noise), denoised,
                state.with_history(None if math.isinf(now.ratio) else denoised))


class LosesMemory(HeunEDMSampler):
    """A step forgets what the guider keeps."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        return out, denoised, StepState(passes=state.passes, history=state.history)


class Second(HeunEDMSampler):
    """The estimate that a step returns is that at the next level; its timestep or index may be another's."""

    strong_order = weak_order = None

    def late(self, now, then):
        return then

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        first = euler(x, now, then, denoised)
        if then.clean or math.isinf(now.ratio):
            return first, denoised, state
        after, state = run.predict(first, self.late(now, then), state)
        return euler(x, now, then, denoised + (after - denoised) * now.ratio / (2 * then.ratio)), after, state


class OldTimestep(Second):
    """The second estimate is made with the timestep of the first."""

    def late(self, now, then):
        return replace(then, timestep=now.timestep)


class EarlyIndex(Second):
    """The second estimate is made with the index of the first step."""

    def late(self, now, then):
        return replace(then, index=0)


class OfFifty(VideoDDIMSampler):
    """With 50 steps the middle one goes 2 % too far."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        return out * (1.02 if now.num_steps == 50 and now.index == 25 else 1), denoised, state


class FourChannels(HeunEDMSampler):
    """Only the first four channels are corrected."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        first = euler(x, now, then, denoised)
        return torch.cat([out[:, :, :4], first[:, :, 4:]], dim=2), denoised, state


class MixesMany(VideoDDIMSampler):
    """Three rows and more are mixed."""

    def step(self, x, now, then, run, state):
        out, denoised, state = super().step(x, now, then, run, state)
        return (out.mean(0, keepdim=True).expand_as(out) if len(out) > 2 else out), denoised, state


@dataclass(kw_only=True)
class Idle(HeunEDMSampler):
    """A parameter of its own has no effect."""

    strength: float = 0.5


class ChurnsBySigma(EulerEDMSampler):
    """s_tmin and s_tmax are compared with sigma, and not with sigma / alpha."""

    def churned(self, x, now, then, run):
        within = replace(self, s_tmin=0.0, s_tmax=math.inf)
        return EulerEDMSampler.churned(within, x, now, then, run) if self.s_tmin <= now.sigma <= self.s_tmax else (
            x, now)
