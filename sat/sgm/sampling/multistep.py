"""Multistep samplers, which reuse estimates of earlier steps from an explicit history."""
import math
from dataclasses import dataclass

from common.kinds import Positive
from sgm.sampling.base import Sampler
from sgm.sampling.steps import euler, lagrange_integrals, second_order, stochastic


@dataclass(kw_only=True)
class DPMPP2MSampler(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): an Euler step with the estimate extrapolated in lambda."""

    convergence_order, nfe = 2, 1

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        x = euler(x, now, then, second_order(denoised, state.history, now, then))
        return x, denoised, state.with_history((denoised, now.lamb))


@dataclass(kw_only=True)
class SDEDPMPP2MSampler(Sampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b).

    The released samplers draw noise for the first-order formula and again for the second-order one, and use only the
    latter. Both draws are made here too, so that the same seeds give the same videos.
    """

    convergence_order, nfe = None, 1

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return denoised, denoised, state
        noise = run.draw()
        if state.history is not None:
            noise = run.draw()
        x = stochastic(x, now, then, second_order(denoised, state.history, now, then), 1.0, noise)
        return x, denoised, state.with_history((denoised, now.lamb))


@dataclass(kw_only=True)
class VPSDEDPMPP2MSampler(SDEDPMPP2MSampler):
    """SDEDPMPP2MSampler, which works on VE and VP alike, under the name in the released configurations."""


@dataclass(kw_only=True)
class VPODEDPMPP2MSampler(DPMPP2MSampler):
    """DPMPP2MSampler, which works on VE and VP alike, under its released VP name."""


@dataclass(kw_only=True)
class LinearMultistepSampler(Sampler):
    """Adams-Bashforth in sigma / alpha over up to `order` noise estimates (Liu et al. 2022, variable steps).

    A noise estimate from zero SNR is at an infinite level and is not reused. Because the first step is an Euler step,
    the order of convergence is at most 2.
    """

    convergence_order, nfe = 2, 1
    order: Positive = 4

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if math.isinf(now.ratio):
            return euler(x, now, then, denoised), denoised, state
        history = [*(state.history or []), (now.ratio, (x - now.alpha * denoised) / now.sigma)][-self.order:]
        weights = lagrange_integrals([ratio for ratio, _ in history], now.ratio, then.ratio, len(history))
        moved = sum(weight * noise for weight, (_, noise) in zip(weights, history, strict=True))
        return then.alpha * (x / now.alpha + moved), denoised, state.with_history(history)
