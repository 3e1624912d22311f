"""Samplers of the reverse SDE that always add noise: DPM-Solver++ SDE with two stages, and ER-SDE."""
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from sgm.noise_schedule import NoiseLevel
from sgm.sampling.base import Sampler
from sgm.sampling.steps import decay, lagrange_integrals, stochastic

POINTS = 32  # of the quadrature


@dataclass(kw_only=True)
class DPMPPSDESampler(Sampler):
    """SDE-DPM-Solver++ with two stages (Lu et al. 2022b): the estimate of the step is made in its middle in lambda.

    The noise of the first stage is part of the noise of the step. Noise of its own for each stage would cost the
    distribution's second order. The steps from zero SNR and to the clean end have one stage.
    """

    convergence_order, nfe = None, 2
    strong_order, weak_order = 1, 2

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return then.alpha * denoised, denoised, state
        if math.isinf(now.ratio):
            return stochastic(x, now, then, denoised, 1.0, run.draw(now, then)), denoised, state
        middle = run.schedule.at_ratio(math.sqrt(now.ratio * then.ratio), now.index + 0.5)
        early, late = run.draw(now, middle), run.draw(middle, then)
        estimate, state = run.predict(stochastic(x, now, middle, denoised, 1.0, early), middle, state)
        share = decay(now, then) / (1 + decay(now, then))  # of the step's variance, of the noise before the middle
        noise = math.sqrt(share) * early + math.sqrt(1 - share) * late
        return stochastic(x, now, then, estimate, 1.0, noise), denoised, state


@dataclass(kw_only=True)
class ERSDESampler(Sampler):
    """ER-SDE-Solver with up to `order` estimates (Cui et al. 2023, section 3, VE form in sigma / alpha).

    The noise follows phi(s) = s (exp(s^0.3) + 10) of the paper's table: a step keeps phi(s') / phi(s) of the latents.
    The estimates are a polynomial in s = sigma / alpha through the last `order` of them.
    """

    convergence_order, nfe = None, 1
    strong_order = 1
    order: Annotated[int, Ge(1), Le(3)] = 3

    @property
    def weak_order(self) -> int:  # type: ignore[override]  # depends on the order
        return min(self.order, 2)

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return then.alpha * denoised, denoised, state
        history = [*(state.history or []), (now.ratio, denoised)][-self.order:]
        kept = math.exp(log_phi(then.ratio) - log_phi(now.ratio))
        moved = sum(weight * estimate for weight, estimate in _weighted(history, now, then, kept))
        added = math.sqrt(max(then.ratio**2 - (kept * now.ratio if kept else 0.0)**2, 0))
        x = then.alpha * ((kept / now.alpha * x if kept else 0.0) + moved + added * run.draw(now, then))
        return x, denoised, state.with_history([one for one in history if not math.isinf(one[0])])


def _weighted(history: list, now: NoiseLevel, then: NoiseLevel, kept: float) -> list:
    """Return (weight, estimate) pairs that add up to the part of a step that comes from the estimates."""
    if len(history) == 1:
        return [(1 - kept, history[0][1])]
    weights = lagrange_integrals([ratio for ratio, _ in history], now.lamb, then.lamb, POINTS,
                                 lambda lamb: _rate(np.exp(-lamb), then.ratio), lambda lamb: np.exp(-lamb))
    return [(weight, estimate) for weight, (_, estimate) in zip(weights, history, strict=True)]


def log_phi(ratio: float) -> float:
    """Return the logarithm of ER-SDE's phi."""
    return math.inf if math.isinf(ratio) else math.log(ratio) + float(np.logaddexp(ratio**0.3, math.log(10)))


def _rate(ratio: np.ndarray, end: float) -> np.ndarray:
    """Return phi(end) / phi(s) times d log phi / d log s, by which estimates at s count in a step in lambda."""
    power = ratio**0.3
    growth = 1 + 0.3 * power / (1 + 10 * np.exp(-power))
    return np.exp(log_phi(end) - np.log(ratio) - np.logaddexp(power, math.log(10))) * growth
