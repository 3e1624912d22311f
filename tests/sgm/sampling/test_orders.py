"""Tests of the solvers' declared orders on Gaussian data, whose probability flow has a closed form."""
import pytest
import torch

from benchmarks.exact import WithoutLastJump, flow_error, measured_order
from benchmarks.exact_moments import moments
from sgm.parameterization import VP as VP_LEVELS
from tests.sgm.problems import ZERO_SNR, Gaussian, conditions, sampler_of, unit_noise

RAMP = {"target": "sgm.discretizer.EDMDiscretization"}
VP = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"sigma_max": 20.0, "rho": 1.0}}
FROM_ZERO_SNR = {"target": "sgm.discretizer.VPRampDiscretization", "params": {"rho": 1.0}}
SOLVERS = [
    ("EulerEDMSampler", {}, 1), ("VideoDDIMSampler", {}, 1), ("DDIMSampler", {"s_noise": 0.0}, 1),
    ("EulerAncestralSampler", {"eta": 0.0}, 1), ("HeunEDMSampler", {}, 2), ("DPMPP2MSampler", {}, 2),
    ("VPODEDPMPP2MSampler", {}, 2), ("DPMPP2SAncestralSampler", {"eta": 0.0}, 2),
    ("LinearMultistepSampler", {"order": 2}, 2), ("DEISSampler", {"order": 2}, 2), ("DEISSampler", {}, 3),
    ("DPMPP3MSampler", {}, 3), ("UniPCSampler", {}, 3),
    ("SASolverSampler", {"order": 2, "tau": 0.0}, 3), ("RungeKutta3Sampler", {}, 3),
    ("GradientEstimationSampler", {}, 1), ("IPNDMSampler", {"order": 2}, 2), ("RESMultistepSampler", {}, 2),
]
# The order that each solver keeps from zero SNR, where lambda and sigma / alpha are infinite.
FROM_ZERO_SNR_ORDERS = [("EulerEDMSampler", 1), ("HeunEDMSampler", 2), ("DPMPP2MSampler", 2), ("UniPCSampler", 3),
                        ("RungeKutta3Sampler", 3)]
RESTARTS = {"intervals": [{"low": 0.1, "high": 2.0, "repeats": 2, "steps": 30}]}
NOISY = [  # name, parameters, and largest error of the moments after 120 steps
    ("EulerAncestralSampler", {}, 0.1), ("DPMPP2SAncestralSampler", {}, 0.03), ("VideoDDPMSampler", {}, 0.1),
    ("DDIMSampler", {}, 0.06), ("SDEDPMPP2MSampler", {}, 0.02), ("VPSDEDPMPP2MSampler", {}, 0.02),
    ("SDEDPMPP3MSampler", {}, 0.02), ("SASolverSampler", {}, 0.02), ("SASolverSampler", {"tau": 0.5, "order": 2}, 0.02),
    ("EulerEDMSampler", {"s_churn": 20.0}, 0.15), ("HeunEDMSampler", {"s_churn": 20.0}, 0.03),
    ("RestartSampler", RESTARTS, 0.03), ("RestartSampler", {}, 0.03), ("DDIMSampler", {"s_noise": 1.0}, 0.1),
    ("DPMPPSDESampler", {}, 0.03), ("ERSDESampler", {}, 0.03),
]


def without_last_jump(name, discretization, **params):
    sampler = sampler_of(name, discretization, **params)
    sampler.discretization = WithoutLastJump(sampler.discretization)
    return sampler


@pytest.mark.parametrize("name, params, order", SOLVERS)
@pytest.mark.parametrize("discretization, steps", [(RAMP, (64, 96, 144, 216)), (VP, (96, 144, 216, 324))],
                         ids=["edm", "vp"])
def test_convergence_order_is_the_declared_one(name, params, order, discretization, steps):
    sampler = without_last_jump(name, discretization, **params)
    assert sampler.convergence_order == order
    assert measured_order(sampler, steps) == pytest.approx(order, abs=0.15)


def test_from_high_noise_the_first_step_of_third_order_does_not_show():
    sampler = without_last_jump("UniPCSampler", RAMP, order=3)
    assert sampler.convergence_order == 3
    assert measured_order(sampler, (64, 96, 144, 216)) == pytest.approx(4, abs=0.15)


def test_solvers_with_noise_declare_no_order():
    for name, params in (("SASolverSampler", {}), ("SDEDPMPP2MSampler", {}), ("SDEDPMPP3MSampler", {}),
                         ("RestartSampler", {})):
        assert sampler_of(name, **params).convergence_order is None


@pytest.mark.slow
@pytest.mark.parametrize("name, order", FROM_ZERO_SNR_ORDERS)
def test_on_the_released_steps_the_last_jump_hides_the_order_and_a_ramp_to_fixed_noise_does_not(name, order):
    steps = (64, 96, 144, 216)
    released = measured_order(sampler_of(name, ZERO_SNR), steps)
    if name == "RungeKutta3Sampler":  # its step to the clean end is of third order, too
        assert released > 1.5
    else:
        assert released == pytest.approx(1, abs=0.3)
    assert measured_order(without_last_jump(name, FROM_ZERO_SNR), steps) == pytest.approx(order, abs=0.15)


def test_after_the_ramp_to_fixed_noise_the_last_estimate_converges_too():
    """The output is the denoised estimate at the last noise level, which does not depend on the number of steps."""
    sampler = sampler_of("RungeKutta3Sampler", FROM_ZERO_SNR)
    assert flow_error(sampler, 200) < 1e-5
    heun = sampler_of("HeunEDMSampler", FROM_ZERO_SNR)
    outs = [heun(Gaussian(VP_LEVELS), unit_noise(), conditions(0.0)[0], num_steps=n) for n in (50, 100, 1000)]
    errors = [float((out - outs[-1]).norm()) for out in outs[:2]]
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("name, params, near", NOISY)
@pytest.mark.parametrize("discretization", [RAMP, ZERO_SNR, FROM_ZERO_SNR], ids=["edm", "released", "vp"])
def test_solvers_with_noise_converge_to_the_mean_and_covariance_of_the_data(name, params, near, discretization):
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.3]], dtype=torch.float64)
    sampler = sampler_of(name, discretization, **params)
    few, many = (max(float((found - exact).abs().max()) for found, exact in
                     zip(moments(sampler, n, mean, covariance), (mean, covariance), strict=True)) for n in (12, 120))
    assert many < near and many < few / 3
