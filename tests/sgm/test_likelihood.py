"""Tests of the log-likelihood against the closed form for Gaussian data."""
import math

import pytest
import torch

from benchmarks.exact import SHAPE, CorrelatedGaussian, Gaussian, Mixture
from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.likelihood import Trace, log_likelihood
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import FLOW, VE, VP

EVEN = {"target": "sgm.discretizer.LogSNRDiscretization", "params": {"sigma_min": 0.05, "sigma_max": 2000.0}}
ZERO_SNR = {"target": "sgm.discretizer.VPRampDiscretization"}
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.4], [0.4, 0.3]], dtype=torch.float64)


def schedule_of(config, steps):
    return instantiate_from_config(config).schedule(steps)


def on(parameterization, schedule):
    """The schedule with the same sigma / alpha in a parameterization."""
    pairs = [parameterization.at_ratio(level.ratio) for level in schedule.levels()]
    alpha, sigma = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return NoiseSchedule(alpha, sigma, None, parameterization)


def latents(level):
    noise = torch.randn(3, 1, 2, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return level.alpha * (MEAN.view(-1, 1, 1) + 0.7 * noise)


def closed_form(x, level):
    covariance = level.alpha**2 * COVARIANCE + level.sigma**2 * torch.eye(2, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(level.alpha * MEAN, covariance)
    return normal.log_prob(x[:, 0].movedim(1, -1)).flatten(1).sum(1)


@pytest.mark.parametrize("parameterization", [VE, VP, FLOW], ids=str)
def test_it_tends_to_the_closed_form_for_gaussian_data(parameterization):
    denoiser, errors = CorrelatedGaussian(parameterization, MEAN, COVARIANCE), []
    for steps in (30, 60):
        schedule = on(parameterization, schedule_of(EVEN, steps))
        level = schedule.levels()[-2]
        x = latents(level)
        found = log_likelihood(denoiser, x, {}, schedule, Trace(exact=True))
        errors.append(float((found[0] - closed_form(x, level)).abs().max()))
    assert errors[1] < 0.05 and errors[0] / errors[1] > 2.5


@pytest.mark.parametrize("parameterization", [VE, VP], ids=str)
def test_it_tends_to_the_closed_form_for_a_mixture(parameterization):
    data, errors = Mixture(parameterization, weight=0.2, d=0.3), []
    for steps in (60, 120):
        schedule = on(parameterization, schedule_of(EVEN, steps))
        level = schedule.levels()[-2]
        x = latents(level)
        components = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.tensor([data.weight, 1 - data.weight])),
            torch.distributions.Normal(torch.tensor([-level.alpha, level.alpha], dtype=torch.float64),
                                       math.hypot(level.sigma, level.alpha * data.d)))
        found = log_likelihood(data, x, {}, schedule, Trace(exact=True))
        errors.append(float((found[0] - components.log_prob(x).flatten(1).sum(1)).abs().max()))
    assert errors[1] < 0.05 and errors[0] / errors[1] > 2.5


def test_hutchinsons_estimate_has_the_exact_mean():
    schedule = schedule_of(EVEN, 10)
    x, denoiser = latents(schedule.levels()[-2]), CorrelatedGaussian(VE, MEAN, COVARIANCE)
    found = log_likelihood(denoiser, x, {}, schedule, Trace(150, torch.Generator().manual_seed(1)))
    exact = log_likelihood(denoiser, x, {}, schedule, Trace(exact=True))
    error = found.std(dim=0) / math.sqrt(len(found))
    assert found.shape == (150, 3) and float(error.min()) > 0
    assert ((found.mean(dim=0) - exact[0]).abs() < 4 * error).all()


def test_it_leaves_no_gradient_and_refuses_zero_snr():
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    cond = {"crossattn": torch.zeros(len(noise), 1, 1)}
    assert not log_likelihood(Gaussian(), noise, cond, schedule_of(EVEN, 3)).requires_grad
    with pytest.raises(ConfigError, match="some signal"):
        log_likelihood(Gaussian(VP), noise, cond, schedule_of(ZERO_SNR, 3))
