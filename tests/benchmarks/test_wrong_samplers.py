"""Tests that samplers which are wrong on purpose fail the checks, each with a sentence that says why."""
import math

import pytest
import torch

from benchmarks.check_sampler import checks_of, main
from benchmarks.checks import fits, noise, orders
from common import console
from common.errors import ConfigError
from configuration import targets
from sgm.sampling import Sampler
from tests.benchmarks import wrong_samplers as wrong


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(noise, "BIAS_STEPS", (32, 64, 128, 256, 512))
    monkeypatch.setattr(noise, "PATH_STEPS", (64, 128, 256))
    monkeypatch.setattr(orders, "STEPS", (32, 64, 128, 256))
    monkeypatch.setattr(targets, "_opened", {wrong.__name__})


LEVELS = "for one clip each step is at its level"


def outcome(cls, check, params=None):
    return dict(checks_of(f"{wrong.__name__}.{cls.__name__}", params or {}))[check]()


@pytest.mark.parametrize("cls, check, says", [
    (wrong.Unguided, "guided as its guider says", "replace neither its guider nor its scale"),
    (wrong.OfYesterday, "each step uses its own estimate", "take what run.predict(x, now, state) returns"),
    (wrong.Coarse, "the precision of the latents", "float32 latents are rounded further"),
    (wrong.Narrow, "the precision of the latents", "a step changes the dtype of its latents"),
    (wrong.Odd, LEVELS, "look in that step for a coefficient"),
    (wrong.Limited, LEVELS, "look in that step for a coefficient"),
    (wrong.TooMuchNoise, "weak order on VP levels", "too much noise"),
    (wrong.TooLittleNoise, "weak order on the EDM ramp", "too little noise"),
    (wrong.IndependentStages, "weak order on VP levels", "more slowly than weak_order = 2 says"),
    (wrong.IndependentStages, "the same distribution on a path", "overlapping interval"),
    (wrong.OppositeStages, "weak order on VP levels", "stages of a step share its noise"),
    (wrong.DrawnTwice, "the same distribution on a path", "draw it once"),
    (wrong.OtherPath, "strong order", "more slowly than strong_order = 1"),
    (wrong.Deaf, "noise in proportion to s_noise", "by self.s_noise"),
    (wrong.Global, "seeds reproduce", "draw noise by run.draw"),
    (wrong.Hasty, "strong order", "strong_order = 2"), (wrong.Hasty, "weak order on VP levels", "weak_order = 2"),
    (wrong.Hasty, "order on VP levels", "convergence_order = 2"), (wrong.Modest, "weak order on VP levels", "faster"),
    (wrong.Silent, "weak order on VP levels", "write weak_order = 1"),
    (wrong.Silent, "strong order", "declares no strong_order"),
    (wrong.Loud, "order without noise", "convergence_order = None"),
    (wrong.WrongWayRound, "single steps of unlike width", "the right way round"),
    (wrong.Forgetful, "evaluations as declared", "more or less often"),
    (wrong.SecretlyForgetful, "all steps are made alike", "step 65 of 128 is made in another way"),
    (wrong.StopsShort, "from zero SNR to a clip of a finite set from sigma 0.2", "arrive at sigma 0"),
    (wrong.InPlace, "leaves its inputs alone", "in place"),
    (wrong.LosesCount, "leaves its inputs alone", "counts 12 of"),
    (wrong.Keeps, "a run does not depend on another beside it", "state.with_history"),
    (wrong.TooMuchNoise, LEVELS, "an amount of noise"), (wrong.OfTheStepBefore, LEVELS, "an index"),
    (wrong.OneForAllFrames, LEVELS, "noise"), (wrong.NoiseAtTheEnd, LEVELS, "look in that step"),
    (wrong.AsksLate, LEVELS, "that x is at"), (wrong.StepsTooFar, LEVELS, "a coefficient"),
    (wrong.SameEta, "eta changes the noise", "eta is not used"),
    (wrong.ChurnsTooMuch, LEVELS, "an amount of noise"), (wrong.KeepsLevel, LEVELS, "that x is at"),
    (wrong.ChurnsEverywhere, "churn within s_tmin and s_tmax", "if now.ratio is between"),
    (wrong.NeverChurns, "it adds noise", "do not declare it"),
    (wrong.EulerAbove, "single steps at all noise levels", "from sigma"),
    (wrong.Rounded, "noise is used as it is drawn", "limited, rounded"),
    (wrong.EqualSteps, "weak order on uneven steps", "the right way round"),
    (wrong.LosesMemory, "leaves its inputs alone", "counts 0 of"),
    (wrong.Second, "leaves its inputs alone", "not its first denoised estimate"),
    (wrong.OldTimestep, "the timestep of each estimate", "run.schedule.at_ratio(ratio, index)"),
    (wrong.EarlyIndex, "the timestep of each estimate", "guidance varies with the index"),
    (wrong.OfFifty, LEVELS, "look in that step"),
    (wrong.FourChannels, "an element does not depend on the size of the latents", "frames, channels or rows"),
    (wrong.MixesMany, "a row does not depend on its neighbours", "over each row alone"),
    (wrong.Idle, "strength changes the result", "strength is not used"),
    (wrong.ChurnsBySigma, "churn within s_tmin and s_tmax", "if now.ratio is between"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_sampler_fails_and_says_why(cls, check, says):
    found = outcome(cls, check)
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


def test_a_method_that_is_only_nearly_at_its_levels_says_so():
    checks = dict(checks_of(f"{wrong.__name__}.Nearly", {}))
    assert LEVELS not in checks and checks["weak order on VP levels"]().passed


def test_what_a_class_raises_is_a_finding_with_its_line(capsys):
    assert console.run(main, [f"{wrong.__name__}.Broken"]) == 1
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
