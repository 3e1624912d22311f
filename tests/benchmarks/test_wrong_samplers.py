"""Tests that samplers and guiders which are wrong on purpose fail the checks, each with a sentence that says why."""
import math
from dataclasses import dataclass, replace

import pytest
import torch

from benchmarks.check_sampler import checks_of, main
from benchmarks.checks import fits, noise, orders
from common import console
from common.errors import ConfigError
from configuration import targets
from sgm.guiders import VanillaCFG
from sgm.sampling import (
    DPMPP2MSampler,
    DPMPP2SAncestralSampler,
    DPMPPSDESampler,
    EulerAncestralSampler,
    EulerEDMSampler,
    HeunEDMSampler,
    Sampler,
    VideoDDIMSampler,
)
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


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(noise, "BIAS_STEPS", (32, 64, 128, 256, 512))
    monkeypatch.setattr(noise, "PATH_STEPS", (64, 128, 256))
    monkeypatch.setattr(orders, "STEPS", (32, 64, 128, 256))
    monkeypatch.setattr(targets, "_opened", {__name__})


LEVELS = "for one clip each step is at its level"


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
    (TooMuchNoise, LEVELS, "an amount of noise"), (OfTheStepBefore, LEVELS, "an index"),
    (OneForAllFrames, LEVELS, "noise"), (NoiseAtTheEnd, LEVELS, "look in that step"),
    (AsksLate, LEVELS, "that x is at"), (StepsTooFar, LEVELS, "a coefficient"),
    (SameEta, "eta changes the noise", "eta is not used"),
    (ChurnsTooMuch, LEVELS, "an amount of noise"), (KeepsLevel, LEVELS, "that x is at"),
    (ChurnsEverywhere, "churn within s_tmin and s_tmax", "if now.ratio is between"),
    (NeverChurns, "it adds noise", "do not declare it"),
    (EulerAbove, "single steps at all noise levels", "from sigma"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_sampler_fails_and_says_why(cls, check, says):
    found = outcome(cls, check)
    assert not found.passed and says in found.remedy


@pytest.mark.parametrize("cls, check, says", [
    (Nothing, "guidance changes the result", "next to nothing"),
    (Swapped, "near scale 1 it is near cond", "its second value"),
    (Swapped, "guidance leads towards cond", "away from"),
    (Backwards, "guidance leads towards cond", "(negative, positive)"),
    (Stronger, "near scale 1 it is near cond", "used as it is given"),
    (MutatesEstimates, "leaves estimates alone", "in place"), (DrawsNumbers, "seeds reproduce",
     "which the seed of a video does not decide"),
    (Faint, "guidance changes the result", "next to nothing"), (OneScale, "a scale for each row", "append_dims"),
    (Unbounded, "guidance within sigma_lo and sigma_hi", "super().scale_at"),
    (OneSided, "guidance within sigma_lo and sigma_hi", "sigma_lo < sigma / alpha"),
    (Proportional, "the scale is used as it is given", "not the scale"),
    (Plain, "rescale 1 keeps the deviation of cond", "leave `guide` to Guider"),
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


@pytest.mark.parametrize("name, params", [
    ("HeunEDMSampler", {}), ("SASolverSampler", {"tau": 0.0}), ("RestartSampler", {}), ("DEISSampler", {}),
    ("ERSDESampler", {}), ("IPNDMSampler", {"order": 1}), ("GradientEstimationSampler", {"gamma": 1.5})])
def test_checks_of_single_steps_give_no_false_alarm(name, params):
    for seed in (1, 2):
        for check, run in checks_of(f"sgm.sampling.{name}", params, seed):
            if any(word in check for word in ("one clip", "single steps", "alike", "changes", "within")):
                assert run().passed, check


@pytest.mark.parametrize("params", [
    {"scale": 0.5}, {"scale": 2.0, "dyn_thresh_config": {"target": "sgm.sampling_utils.StaticThresholding"}}])
def test_a_guider_between_its_branches_or_with_a_limit_passes(params):
    assert all(run().passed for _, run in checks_of("sgm.guiders.VanillaCFG", params, seed=4))


def test_a_method_that_is_only_nearly_at_its_levels_says_so():
    checks = dict(checks_of(f"{__name__}.Nearly", {}))
    assert LEVELS not in checks and checks["weak order on VP levels"]().passed


def test_what_a_class_raises_is_a_finding_with_its_line(capsys):
    assert console.run(main, [f"{__name__}.Broken"]) == 1
    out = capsys.readouterr().out
    assert "FAILED seeds reproduce: TypeError" in out and "raised in step, " in out and torch.get_num_threads() >= 1


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
