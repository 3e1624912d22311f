"""Tests of runs whose first latent frames are known: kept exactly by every sampler, and the others fit them."""
from itertools import pairwise

import pytest
import torch

from sgm.parameterization import VE, VP
from sgm.sampling import Continuing
from tests.sgm.problems import EDM, SAMPLERS, ZERO_SNR, Gaussian, conditions, guider_config, sampler_of, unit_noise

KNOWN = unit_noise(seed=7)[:, :1]


def generator():
    return torch.Generator().manual_seed(3)


class Watching(Gaussian):
    """The exact denoiser, which keeps what the network is given, and with which noise level."""

    def __init__(self, parameterization):
        super().__init__(parameterization)
        self.seen = []

    def __call__(self, x, level, cond, **inputs):
        self.seen.append((x.clone(), float(level[0])))
        return super().__call__(x, level, cond, **inputs)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("discretization, parameterization", [(EDM, VE), (ZERO_SNR, VP)])
@pytest.mark.parametrize("rounds", [1, 2])
def test_known_frames_come_out_as_they_were_given(name, discretization, parameterization, rounds):
    out = sampler_of(name, discretization, guider=guider_config(scale=3.0))(
        Gaussian(parameterization), unit_noise(), *conditions(), generator=generator(),
        start=Continuing(KNOWN, rounds))
    assert torch.equal(out[:, :1], KNOWN) and torch.isfinite(out).all()
    assert (out[:, 1:] - 1).abs().mean() < 3, "the other frames are sampled as always"


def test_the_network_sees_known_frames_with_the_runs_own_noise_at_every_level():
    denoiser, noise = Watching(VP), unit_noise()
    sampler = sampler_of("EulerEDMSampler", ZERO_SNR)
    sampler(denoiser, noise, conditions()[0], start=Continuing(KNOWN, 1))
    levels = sampler.schedule().levels()
    assert len(denoiser.seen) == 10
    for (x, _), level in zip(denoiser.seen, levels, strict=False):
        torch.testing.assert_close(x[:, :1], level.alpha * KNOWN + level.sigma * noise[:, :1])


def test_steps_are_made_again_but_the_first_from_zero_snr_and_the_last():
    reports, denoiser = [], Watching(VP)
    sampler_of("EulerEDMSampler", ZERO_SNR)(denoiser, unit_noise(), conditions()[0], generator=generator(),
                                            start=Continuing(KNOWN, 3), callback=reports.append)
    assert len(reports) == 10 and len(denoiser.seen) == 1 + 8 * 3 + 1 == reports[-1].passes


def test_steps_made_again_have_the_spread_of_their_level():
    """For Gaussian data, what is noised back is distributed as at first: its deviation is that of the level."""
    denoiser = Watching(VE)
    shape = (64, 2, 4, 8, 8)
    level = 4.0
    sampler_of("EulerEDMSampler", EDM, 40)(
        denoiser, unit_noise(shape=shape), conditions(batch=64)[0], generator=generator(),
        start=Continuing(torch.ones(64, 1, 4, 8, 8, dtype=torch.float64), 2))
    nearest = min({sigma for _, sigma in denoiser.seen}, key=lambda sigma: abs(sigma - level))
    first, again = (x[:, 1:] for x, sigma in denoiser.seen if sigma == nearest)
    assert not torch.equal(first, again)
    assert abs(float(again.std() / first.std()) - 1) < 0.03


def test_a_row_does_not_depend_on_its_neighbours():
    sampler = sampler_of("AdaptiveSampler", ZERO_SNR)
    known = torch.cat([KNOWN[:1], KNOWN[:1] + 1])
    noise = unit_noise()[:1].repeat(2, 1, 1, 1, 1)
    both = sampler(Gaussian(VP), noise, conditions(batch=2)[0], generator=[generator(), generator()],
                   start=Continuing(known))
    alone = sampler(Gaussian(VP), noise[1:], conditions(batch=1)[0], generator=[generator()],
                    start=Continuing(known[1:]))
    assert torch.equal(both[1:], alone)


def carried_on(name, params):
    """Return the share of the noise added before a step is made again that its result has, for each such step."""
    sampler, denoiser, seen = sampler_of(name, EDM, 12, **params), Gaussian(VE), []
    step = sampler.step

    def watched(x, now, then, run, state):
        result = step(x, now, then, run, state)
        seen.append((now, then, x, result[0]))
        return result

    sampler.step = watched
    sampler(denoiser, unit_noise(), conditions()[0], generator=generator(), start=Continuing(KNOWN, 2))
    shares = []
    for (now, then, x, out), (again, _, other_x, other_out) in pairwise(seen):
        if now == again:
            added, kept = (other_x - x)[:, 1:], (other_out - out)[:, 1:]
            exact = denoiser.flow(added, now, then)
            shares.append(float((kept * exact).sum() / (exact * exact).sum()))
    return shares


NOISY = ("EulerAncestralSampler", "DPMPP2SAncestralSampler", "VideoDDPMSampler", "RestartSampler")


@pytest.mark.parametrize("name, params", [("SASolverSampler", {"tau": 0.0}), *(
    (name, {}) for name in SAMPLERS if sampler_of(name).convergence_order is not None and name not in NOISY)])
def test_a_step_made_again_goes_on_from_the_new_noise(name, params):
    """What samplers keep of earlier steps must not take it away: a step without the noise would count for nothing."""
    shares = carried_on(name, params)
    assert len(shares) == 11 and min(shares) > 0.8, shares
