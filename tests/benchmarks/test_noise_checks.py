"""Tests that samplers which add noise wrongly or declare wrong orders, and guidance without effect, fail the checks."""
import math
from dataclasses import dataclass

import pytest

from benchmarks import noise_checks
from benchmarks.check_sampler import EDM, checks_of, order
from common.errors import ConfigError
from configuration import targets
from sgm.guiders import VanillaCFG
from sgm.sampling import (
    DPMPP2SAncestralSampler,
    DPMPPSDESampler,
    EulerAncestralSampler,
    HeunEDMSampler,
    Sampler,
    SDEDPMPP2MSampler,
)
from sgm.sampling.steps import stochastic


class TooMuchNoise(EulerAncestralSampler):
    """Noise of a deviation that is 8 % too large."""

    def add_noise(self, x, now, then, up, run):
        return super().add_noise(x, now, then, 1.08 * up, run)


@dataclass(kw_only=True)
class IndependentStages(DPMPPSDESampler):
    """DPM++ SDE whose first stage has noise of its own."""

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return denoised, denoised, state
        middle = run.schedule.at_ratio(math.sqrt(now.ratio * then.ratio), now.index + 0.5)
        early = stochastic(x, now, middle, denoised, 1.0, run.other(0).draw(now, middle))
        estimate, state = run.predict(early, middle, state)
        return stochastic(x, now, then, estimate, 1.0, run.draw(now, then)), denoised, state


class Hasty(EulerAncestralSampler):
    """More than it can."""

    strong_order, weak_order = 2, 2


class Modest(DPMPP2SAncestralSampler):
    """Less than it can."""

    weak_order = 1


class Silent(EulerAncestralSampler):
    """No orders with noise."""

    strong_order = weak_order = None


@dataclass(kw_only=True)
class Nothing(VanillaCFG):
    """A guider that leads from the conditional estimate to itself."""

    def push(self, estimates, at, memory):
        return estimates["cond"], estimates["cond"], None


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(noise_checks, "BIAS_STEPS", (81, 121, 182))
    monkeypatch.setattr(noise_checks, "PATH_STEPS", (32, 64, 128))
    monkeypatch.setattr(noise_checks, "WEIGHT_STEPS", 40)


def check(name, cls):
    return getattr(noise_checks, name)(lambda edm: cls(discretization_config=edm, num_steps=12), EDM)


@pytest.mark.parametrize("cls", [SDEDPMPP2MSampler, DPMPPSDESampler, DPMPP2SAncestralSampler])
def test_those_that_are_right_pass(cls):
    for name in ("strong_order", "weak_order", "limit_of_bias", "weight_of_component"):
        passed, found = check(name, cls)
        assert passed, (name, found)


@pytest.mark.parametrize("name, cls, says", [
    ("limit_of_bias", TooMuchNoise, ""), ("weak_order", TooMuchNoise, "declared 1"),
    ("weak_order", IndependentStages, "declared 2"), ("strong_order", Hasty, "declared 2"),
    ("weak_order", Hasty, "declared 2"), ("weak_order", Modest, "declared 1"),
    ("weak_order", Silent, "declares no weak_order: write weak_order = 1"),
    ("strong_order", Silent, "declares no strong_order"),
])
def test_those_that_are_wrong_do_not(name, cls, says):
    passed, found = check(name, cls)
    assert not passed and says in found


@pytest.mark.parametrize("declared", [1, 3])
def test_an_order_above_or_below_the_declared_one_fails(declared, monkeypatch):
    monkeypatch.setattr(HeunEDMSampler, "convergence_order", declared)
    passed, found = order({"target": "sgm.sampling.HeunEDMSampler"}, EDM)
    assert not passed and f"declared {declared}" in found


def test_a_guider_that_does_nothing_fails(monkeypatch):
    monkeypatch.setattr(targets, "_opened", {"tests.benchmarks.test_noise_checks"})
    outcomes = {name: run() for name, run in checks_of("tests.benchmarks.test_noise_checks.Nothing", {"scale": 3.0})}
    assert not outcomes["guidance changes the result"][0]
    assert all(passed for name, (passed, _) in outcomes.items() if name != "guidance changes the result")


@pytest.mark.parametrize("body, says", [
    ({"step": lambda *given: None, "convergence_order": 1}, "NoNfe declares no nfe, the estimates that a step takes"),
    ({"step": lambda *given: None, "nfe": 1}, "NoNfe declares no convergence_order"),
])
def test_what_a_class_leaves_out_is_one_line(body, says):
    with pytest.raises(ConfigError, match=says):
        type("NoNfe", (Sampler,), body)(discretization_config=EDM)


