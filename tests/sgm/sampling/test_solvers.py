"""Tests of the solvers against each other in limits, and against independent implementations."""
import math
from itertools import pairwise

import pytest
import torch

from common.errors import ConfigError
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import FLOW as FLOW_LEVELS
from sgm.parameterization import VE, VP
from sgm.sampling.adams import Node
from tests.sgm.problems import EDM, ZERO_SNR, Gaussian, conditions, sampler_of, unit_noise

FLOW = {"target": "sgm.discretizer.RectifiedFlowDiscretization", "params": {"shift": 3.0}}


def run(name, discretization=EDM, num_steps=10, parameterization=VE, seed=1, **params):
    return sampler_of(name, discretization, num_steps, **params)(
        Gaussian(parameterization), unit_noise(), conditions()[0], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name, params, same, same_params", [
    ("SASolverSampler", {"tau": 0.0, "order": 3}, "UniPCSampler", {"order": 3}),
    ("RestartSampler", {"intervals": []}, "HeunEDMSampler", {}),
    ("RestartSampler", {"intervals": [{"low": 0.1, "high": 1.0, "repeats": 0, "steps": 3}]}, "HeunEDMSampler", {}),
    ("HeunEDMSampler", {"s_churn": 0.0, "s_noise": 2.0}, "HeunEDMSampler", {}),
    ("EulerEDMSampler", {"s_churn": 40.0, "s_tmin": 1.0, "s_tmax": 0.5}, "VideoDDIMSampler", {}),
    ("EulerAncestralSampler", {"eta": 0.0}, "EulerEDMSampler", {}),
    ("DDIMSampler", {"s_noise": 0.0}, "EulerEDMSampler", {}),
    ("LinearMultistepSampler", {"order": 1}, "EulerEDMSampler", {}),
])
def test_one_is_another_in_a_limit(name, params, same, same_params):
    for discretization, parameterization in ((EDM, VE), (ZERO_SNR, VP), (FLOW, FLOW_LEVELS)):
        one, other = (run(n, discretization, 10, parameterization, **p)
                      for n, p in ((name, params), (same, same_params)))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_euler_over_a_rectified_flow_is_flow_matching():
    denoiser, noise, (cond, _) = Gaussian(FLOW_LEVELS), unit_noise(), conditions()
    sampler, x = sampler_of("EulerEDMSampler", FLOW), noise
    times = sampler.schedule().sigma
    for s, s_next in zip(times[:-1], times[1:], strict=True):
        velocity = (x - denoiser(x, s.expand(len(x)), cond)) / s
        x = x + (s_next - s) * velocity
    torch.testing.assert_close(sampler(denoiser, noise, cond), x, rtol=1e-12, atol=1e-12)


def test_dpmpp_1s_is_ddim():
    """The first-order DPM-Solver++, x' = (sigma'/sigma) x - alpha' (exp(-h) - 1) denoised, on zero-SNR steps."""
    denoiser, (cond, _), x = Gaussian(VP), conditions(), unit_noise()
    for now, then in zip(*(iter(sampler_of("VideoDDIMSampler", ZERO_SNR).schedule().levels()[i:]) for i in (0, 1)),
                         strict=False):
        shrink = 0.0 if then.clean else math.exp(now.lamb - then.lamb)
        denoised = denoiser(x, x.new_full((len(x),), now.level), cond)
        x = then.sigma / now.sigma * x + then.alpha * (1 - shrink) * denoised
    torch.testing.assert_close(run("VideoDDIMSampler", ZERO_SNR, parameterization=VP), x, rtol=1e-12, atol=1e-12)


class Given:
    """A schedule of VP noise levels from a diffusers scheduler, which stores sigma / alpha."""

    parameterization = VP

    def __init__(self, ratios):
        self.ratios = ratios

    def schedule(self, n, device="cpu"):
        alpha = 1 / (1 + self.ratios**2).sqrt()
        return NoiseSchedule(alpha, alpha * self.ratios, None, VP)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_is_that_of_diffusers(diffusers, order):
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, solver_type="bh2", prediction_type="sample",
                                        lower_order_final=False, final_sigmas_type="zero")
    scheduler.set_timesteps(12)
    scheduler.sigmas = torch.linspace(2.5, -3.0, 13, dtype=torch.float64).exp()
    sampler, denoiser, (cond, _) = sampler_of("UniPCSampler", order=order), Gaussian(VP), conditions()
    sampler.discretization = Given(scheduler.sigmas)
    x = unit_noise()
    for timestep, level in zip(scheduler.timesteps, sampler.schedule(12).levels(), strict=False):
        x = scheduler.step(denoiser(x, x.new_full((len(x),), level.level), cond), timestep, x).prev_sample
    torch.testing.assert_close(sampler(denoiser, unit_noise(), cond, num_steps=12), x, rtol=1e-6, atol=1e-6)


def test_three_estimates_integrate_a_quadratic_in_lambda_exactly():
    """If the estimate is a known function of lambda, the ODE has a closed solution, which the method reproduces."""
    def denoiser(x, level, cond, idx=None):
        lamb = -level.log().view(-1, 1, 1, 1, 1)
        return (2 + 3 * lamb - lamb**2).expand_as(x)

    def solution(lamb):  # integral of exp(lambda) (2 + 3 lambda - lambda^2) d lambda, times exp(-lambda)
        return -3 + 5 * lamb - lamb**2

    sampler = sampler_of("DPMPP3MSampler")
    levels = sampler.schedule(10).levels()
    nodes, x = [], torch.full((1, 1, 1, 1, 1), solution(levels[2].lamb), dtype=torch.float64)
    for level in levels[:3]:
        nodes.append(Node(level, x, denoiser(x, torch.tensor([level.sigma]), {})))
    x = sampler.move(x, levels[2], levels[3], nodes, None)
    torch.testing.assert_close(float(x), solution(levels[3].lamb), rtol=1e-6, atol=1e-6)


def test_a_restart_costs_what_it_says_and_forgets_where_it_was():
    interval = {"low": 0.3, "high": 2.0, "repeats": 3, "steps": 4}
    heun, restarted = (sampler_of("RestartSampler", EDM, 8, intervals=i) for i in ([], [interval]))
    calls = []
    for sampler in (heun, restarted):
        denoiser = Gaussian()
        sampler(denoiser, unit_noise(), conditions()[0])
        calls.append(denoiser.calls)
    assert calls[1] - calls[0] == 3 * 2 * 4


@pytest.mark.parametrize("num_steps", [8, 9, 13])
def test_restarts_begin_at_the_same_noise_whatever_the_steps(num_steps):
    intervals = [{"low": 0.1, "high": 1.0, "repeats": 2}, {"low": 0.3, "high": 2.0, "repeats": 1}]
    asked, denoiser = [], Gaussian()

    def watched(x, level, cond, **inputs):
        asked.append(round(float(level[0]), 9))
        return denoiser(x, level, cond)

    sampler = sampler_of("RestartSampler", EDM, num_steps, intervals=intervals)
    sampler(watched, unit_noise(), conditions()[0])
    falls = [(before, after) for before, after in pairwise(asked) if after > before]
    assert falls == [(0.3, 2.0), (0.1, 1.0), (0.1, 1.0)]


@pytest.mark.parametrize("name, params, message", [
    ("UniPCSampler", {"order": 4}, "order: 4 is none of the orders of UniPCSampler, 2, 3"),
    ("DPMPP3MSampler", {"order": 2}, "order: 2 is none"), ("DEISSampler", {"order": 1}, "order: 1 is none"),
    ("SASolverSampler", {"tau": -1.0}, "tau is -1.0; it must be a number, 0 or more"),
    ("RestartSampler", {"intervals": [{"low": 2.0, "high": 1.0, "repeats": 1, "steps": 1}]}, "low below high"),
    ("RestartSampler", {"intervals": [{"low": 0.1, "high": 1.0}]}, "intervals.repeats is missing"),
    ("RestartSampler", {"intervals": [{"low": 0.1, "high": 1.0, "repeat": 1}]}, "did you mean repeats"),
    ("RestartSampler", {"num_steps": 1}, "none of the 1 steps arrives at a noise level below high"),
])
def test_what_cannot_be_is_refused_when_built(name, params, message):
    with pytest.raises(ConfigError, match=message):
        sampler_of(name, **params)
