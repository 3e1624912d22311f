"""Multistep samplers, which reuse estimates of earlier steps from an explicit history."""
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from common.kinds import AboveZero, Positive
from sgm.sampling.base import Sampler
from sgm.sampling.steps import euler, exact_second_order, lagrange_integrals, second_order, stochastic

# Adams-Bashforth's weights of the last estimates, oldest first, for steps of equal width.
EQUAL_STEPS = {1: (1,), 2: (-1 / 2, 3 / 2), 3: (5 / 12, -16 / 12, 23 / 12), 4: (-9 / 24, 37 / 24, -59 / 24, 55 / 24)}


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
    strong_order, weak_order = 1, 2

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if then.clean:
            return denoised, denoised, state
        noise = run.draw(now, then)
        if state.history is not None:
            noise = run.draw(now, then)
        x = stochastic(x, now, then, second_order(denoised, state.history, now, then), 1.0, noise)
        return x, denoised, state.with_history((denoised, now.lamb))


@dataclass(kw_only=True)
class VPSDEDPMPP2MSampler(SDEDPMPP2MSampler):
    """SDEDPMPP2MSampler, which works on VE and VP alike, under the name in the released configurations."""


@dataclass(kw_only=True)
class VPODEDPMPP2MSampler(DPMPP2MSampler):
    """DPMPP2MSampler, which works on VE and VP alike, under its released VP name."""


@dataclass(kw_only=True)
class RESMultistepSampler(Sampler):
    """RES with two estimates (Zhang et al. 2023): their straight line in lambda is integrated exactly.

    DPM-Solver++(2M) takes its value in the middle of the step instead.
    """

    convergence_order, nfe = 2, 1

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        x = euler(x, now, then, exact_second_order(denoised, state.history, now, then))
        return x, denoised, state.with_history((denoised, now.lamb))


@dataclass(kw_only=True)
class NoiseMultistepSampler(Sampler):
    """Base of the methods that combine noise estimates, as `weights` says, to a step in sigma / alpha.

    A noise estimate from zero SNR is at an infinite level and is not reused.
    """

    nfe = 1
    most: ClassVar[int] = 2  # estimates

    @abstractmethod
    def weights(self, ratios: Sequence[float], end: float) -> Sequence[float]:
        """Return the weights, which add up to end - ratios[-1], of noise estimates at these sigma / alpha."""

    def history_again(self, history):
        return None  # its estimates are of other noise

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        if math.isinf(now.ratio):
            return euler(x, now, then, denoised), denoised, state
        history = [*(state.history or []), (now.ratio, (x - now.alpha * denoised) / now.sigma)][-self.most:]
        weights = self.weights([ratio for ratio, _ in history], then.ratio)
        moved = sum(weight * noise for weight, (_, noise) in zip(weights, history, strict=True))
        return then.alpha * (x / now.alpha + moved), denoised, state.with_history(history)


@dataclass(kw_only=True)
class LinearMultistepSampler(NoiseMultistepSampler):
    """Adams-Bashforth in sigma / alpha over up to `order` noise estimates (Liu et al. 2022, variable steps).

    Because the first step is an Euler step, the order of convergence is at most 2.
    """

    order: Positive = 4

    @property
    def convergence_order(self) -> int:  # type: ignore[override]  # depends on the order
        return min(self.order, 2)

    @property
    def most(self) -> int:  # type: ignore[override]  # depends on the order
        return self.order

    def weights(self, ratios, end):
        return lagrange_integrals(ratios, ratios[-1], end, len(ratios))


@dataclass(kw_only=True)
class IPNDMSampler(NoiseMultistepSampler):
    """iPNDM (Zhang and Chen 2023, section 3.2): Adams-Bashforth with the weights of equal steps, whatever the steps.

    The first steps use the estimates that there are. The step to the clean end is an Euler step.
    """

    order_on_uneven_steps: ClassVar[int] = 1
    order: Annotated[int, Ge(1), Le(4)] = 4

    @property
    def convergence_order(self) -> int:  # type: ignore[override]  # depends on the order
        return min(self.order, 2)

    @property
    def most(self) -> int:  # type: ignore[override]  # depends on the order
        return self.order

    def weights(self, ratios, end):
        return scaled(EQUAL_STEPS[len(ratios)], ratios, end)


@dataclass(kw_only=True)
class GradientEstimationSampler(NoiseMultistepSampler):
    """Gradient estimation (Permenter and Yuan 2024, section 5): Euler with `gamma` noise + (1 - gamma) the one before.

    `gamma` 1 is Euler's method, as is the step to the clean end, and 1.5 Adams and Bashforth's of second order with the
    weights of equal steps.
    """

    order_on_uneven_steps: ClassVar[int] = 1
    gamma: AboveZero = 2.0

    @property
    def convergence_order(self) -> int:  # type: ignore[override]  # depends on gamma
        return 2 if self.gamma == 1.5 else 1

    def weights(self, ratios, end):
        return scaled([1 - self.gamma, self.gamma] if len(ratios) == 2 else [1], ratios, end)


def scaled(shares: Sequence[float], ratios: Sequence[float], end: float) -> list[float]:
    """Return weights in these proportions of a step from ratios[-1] to `end`; to the clean end only the last counts."""
    shares = [0] * (len(ratios) - 1) + [1] if end == 0 else shares
    return [(end - ratios[-1]) * share for share in shares]
