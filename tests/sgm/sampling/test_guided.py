"""Tests of the state of a run: steps and evaluations return it, and change nothing else."""
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sgm.conditioning import Conditioning
from sgm.guiders import APG
from sgm.sampling.base import Run
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.noise import StandIn
from tests.sgm.problems import EDM, SAMPLERS, Gaussian, conditions, sampler_of, unit_noise

GUIDER = APG(scale=3.0, momentum=-0.5, sigma_hi=10.0)


def run_of(sampler):
    predict = Guided(Gaussian(), GUIDER, Conditioning(*conditions()), None, {})
    return Run(sampler.schedule(), predict, StandIn(lambda: torch.full_like(unit_noise(), 0.5)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_taken_again_from_the_same_state_gives_the_same(name):
    sampler = sampler_of(name, EDM, 4)
    run, x, state = run_of(sampler), 20 * unit_noise(), StepState()
    for now, then in pairwise(run.schedule.levels()):
        outs = [sampler.step(x, now, then, run, state) for _ in range(2)]
        for one, other in zip(outs[0][:2], outs[1][:2], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert outs[0][2].passes == outs[1][2].passes > state.passes
        x, _, state = outs[0]


def test_an_evaluation_counts_its_branches_and_carries_the_guiders_memory():
    sampler = sampler_of("EulerEDMSampler", EDM, 4)
    predict, x = run_of(sampler).predict, unit_noise()
    unguided, guided = sampler.schedule().at_ratio(20.0, 0), sampler.schedule().at_ratio(5.0, 1)
    _, first = predict(x, unguided, StepState(history="kept"))
    assert first == StepState(passes=1, memory=None, history="kept")
    fresh, second = predict(x, guided, first)
    assert second.passes == 3 and second.history == "kept" and second.memory is not None
    with_momentum, _ = predict(x, guided, second)
    again, _ = predict(x, guided, replace(second, memory=None))
    assert torch.equal(fresh, again) and not torch.equal(fresh, with_momentum)
