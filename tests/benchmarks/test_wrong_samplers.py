"""Tests that samplers and guiders which are wrong on purpose fail the checks, each with a sentence that says why."""
import math
from dataclasses import dataclass

import pytest
import torch

from benchmarks.check_sampler import checks_of
from benchmarks.checks import fits, noise, orders
from common.errors import ConfigError
from configuration import targets
from sgm.guiders import VanillaCFG
from sgm.sampling import (
    DPMPP2MSampler,
    DPMPP2SAncestralSampler,
    DPMPPSDESampler,
    EulerAncestralSampler,
    HeunEDMSampler,
    Sampler,
    VideoDDIMSampler,
)
from sgm.sampling.steps import decay, euler, second_order, stochastic


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


@dataclass(kw_only=True)
class Pushing(VanillaCFG):
    """A guider whose pair is `wrong`."""

    def push(self, estimates, at, memory):
        return *self.wrong(estimates["uncond"], estimates["cond"]), None


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


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(noise, "BIAS_STEPS", (32, 64, 128, 256, 512))
    monkeypatch.setattr(noise, "PATH_STEPS", (64, 128, 256))
    monkeypatch.setattr(orders, "STEPS", (32, 64, 128, 256))
    monkeypatch.setattr(targets, "_opened", {__name__})


def outcome(cls, check, params=None):
    return dict(checks_of(f"{__name__}.{cls.__name__}", params or {}))[check]()


@pytest.mark.parametrize("cls, check, says", [
    (TooMuchNoise, "weak order on VP levels", "too much noise"),
    (TooLittleNoise, "weak order on the EDM ramp", "too little noise"),
    (IndependentStages, "weak order on VP levels", "more slowly than weak_order = 2 says"),
    (IndependentStages, "the same distribution on a path", "overlapping interval"),
    (OppositeStages, "weak order on VP levels", "stages of a step share its noise"),
    (DrawnTwice, "the same distribution on a path", "draw it once"),
    (OtherPath, "strong order", "more slowly than strong_order = 1"),
    (Deaf, "noise in proportion to s_noise", "by self.s_noise"),
    (Global, "seeds reproduce", "draw noise by run.draw"),
    (Hasty, "strong order", "strong_order = 2"), (Hasty, "weak order on VP levels", "weak_order = 2"),
    (Hasty, "order on VP levels", "convergence_order = 2"), (Modest, "weak order on VP levels", "faster"),
    (Silent, "weak order on VP levels", "write weak_order = 1"), (Silent, "strong order", "declares no strong_order"),
    (Loud, "order without noise", "convergence_order = None"),
    (WrongWayRound, "single steps of unlike width", "the right way round"),
    (Forgetful, "evaluations as declared", "more or less often"),
    (SecretlyForgetful, "all steps are made alike", "step 65 of 128 is made in another way"),
    (StopsShort, "from zero SNR to a clip of a finite set from sigma 0.2", "arrive at sigma 0"),
    (InPlace, "leaves its inputs alone", "in place"), (LosesCount, "leaves its inputs alone", "counts 12 of"),
    (Keeps, "a run does not depend on another beside it", "state.with_history"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_sampler_fails_and_says_why(cls, check, says):
    found = outcome(cls, check)
    assert not found.passed and says in found.remedy


@pytest.mark.parametrize("cls, check, says", [
    (Nothing, "guidance changes the result", "does nothing"),
    (Swapped, "near scale 1 it is near cond", "its second value"),
    (Swapped, "guidance leads towards cond", "away from"),
    (Backwards, "guidance leads towards cond", "(negative, positive)"),
    (Stronger, "near scale 1 it is near cond", "used as it is given"),
    (MutatesEstimates, "leaves estimates alone", "in place"), (DrawsNumbers, "seeds reproduce",
     "which the seed of a video does not decide"),
    (Stubborn, "the scale of a call is that of the parameters", "has to use its `scale`"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_guider_fails_and_says_why(cls, check, says):
    found = outcome(cls, check, {"scale": 3.0})
    assert not found.passed and says in found.remedy


@pytest.mark.parametrize("name, params", [
    ("SASolverSampler", {"order": 2, "tau": 0.5}), ("EulerEDMSampler", {"s_churn": 20.0}), ("UniPCSampler", {})])
def test_those_that_are_right_pass_with_other_data(name, params):
    for check, run in checks_of(f"sgm.sampling.{name}", params, seed=3):
        if check != "weight of a component of a mixture":  # takes a second
            assert run().passed, check


def test_the_leading_term_is_found_below_a_larger_one_of_higher_order():
    errors = [torch.tensor([1e-3 * h**2 + h**3, h**4]) for h in (2.0**-k for k in range(5, 11))]
    assert fits.local_orders(errors)[-1] > 2.5
    assert fits.order_of(errors, 2) == pytest.approx(2, abs=0.05)
    limit, sure = fits.limit_of([error + 1e-4 for error in errors], 2)
    assert limit == pytest.approx(math.sqrt(2) * 1e-4, rel=0.01) and sure < 1e-5


@pytest.mark.parametrize("body, says", [
    ({"step": lambda *given: None, "convergence_order": 1}, "NoNfe declares no nfe, the estimates that a step takes"),
    ({"step": lambda *given: None, "nfe": 1}, "NoNfe declares no convergence_order"),
])
def test_what_a_class_leaves_out_is_one_line(body, says):
    with pytest.raises(ConfigError, match=says):
        type("NoNfe", (Sampler,), body)(discretization_config={"target": "sgm.discretizer.EDMDiscretization"})
