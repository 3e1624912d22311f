"""Adams methods, which integrate a polynomial through earlier estimates over the step, and may correct the step later.

There is one evaluation per step, at the predicted latents. The estimate made there first corrects the step that led
there, at no further evaluation, and is then used for the next step (PEC mode).
"""
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from common.errors import ConfigError
from common.kinds import NotNegative, Positive
from sgm.noise_schedule import NoiseLevel
from sgm.sampling.base import Sampler
from sgm.sampling.steps import decay, euler, lagrange_integrals, second_order, stochastic

FIRST_STEP = 3  # order of a corrected first step, which has one node at each end
POINTS = 32  # of the quadrature: errors of some 1e-9 for steps of 10 in lambda


class Node(NamedTuple):
    """A point at which an estimate was made."""

    level: NoiseLevel
    x: torch.Tensor
    denoised: torch.Tensor

    @property
    def noise(self) -> torch.Tensor:
        """The estimate of the noise in x."""
        return (self.x - self.level.alpha * self.denoised) / self.level.sigma


class Taken(NamedTuple):
    """A step that may still be corrected: its (corrected) start, the fresh noise it added, its nodes, newest last.

    Without a start (None), its nodes are of use to the next step, but it cannot be corrected.
    """

    x: torch.Tensor | None
    start: NoiseLevel
    fresh: torch.Tensor | None
    nodes: list[Node]


@dataclass(kw_only=True)
class AdamsSampler(Sampler):
    """Base of the Adams methods with up to `order` nodes; a subclass defines `move`, a step from its nodes.

    A method that does not correct every step still corrects steps with fewer than order - 1 nodes. Otherwise the first
    step, an Euler step, would reduce a method of order 3 to order 2.
    """

    nfe = 1
    orders: ClassVar[tuple[int, ...]] = (2, 3)
    always_corrects: ClassVar[bool] = False
    order: Positive = 3

    def __post_init__(self):
        if self.order not in self.orders:
            raise ConfigError(f"sampler_config.params.order: {self.order} is none of the orders of "
                              f"{type(self).__name__}, {', '.join(map(str, self.orders))}")
        super().__post_init__()

    @abstractmethod
    def move(self, x: torch.Tensor, now: NoiseLevel, then: NoiseLevel, nodes: list[Node],
             fresh: torch.Tensor | None) -> torch.Tensor:
        """Step from x at `now` to `then` with the polynomial through `nodes`, the last one at `now` or `then`."""
        raise NotImplementedError

    def fresh_noise(self, now: NoiseLevel, then: NoiseLevel, run) -> torch.Tensor | None:
        """Return the unit noise that a step adds, or None."""
        return None

    def history_again(self, history: Taken | None) -> Taken | None:
        return None if history is None else history._replace(x=None)  # a correction would undo the new noise

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        node, history, nodes = Node(now, x, denoised), state.history, []
        if history is not None:
            if history.x is not None and (self.always_corrects or len(history.nodes) < self.order - 1):
                x = self.move(history.x, history.start, now, [*history.nodes, node], history.fresh)
            nodes = [old for old in history.nodes if not math.isinf(old.level.ratio)]  # lambda is infinite at zero SNR
        nodes = [*nodes, node][-self.order:]
        fresh = None if then.clean else self.fresh_noise(now, then, run)
        return self.move(x, now, then, nodes, fresh), denoised, state.with_history(Taken(x, now, fresh, nodes))


@dataclass(kw_only=True)
class ExponentialAdamsSampler(AdamsSampler):
    """Base of the Adams methods that integrate estimates of x0, as a polynomial in lambda, against the SDE's kernel.

    tau scales the noise: 0 is the probability-flow ODE, 1 the reverse SDE. With two nodes the polynomial is evaluated
    at the middle of the step, as in DPM-Solver++(2M) and UniPC, which also works from zero SNR.
    """

    tau: ClassVar[float] = 0.0

    @property
    def convergence_order(self) -> int | None:  # type: ignore[override]  # depends on the parameters
        return None if self.tau > 0 else min(self.order + self.always_corrects, FIRST_STEP)

    def fresh_noise(self, now, then, run):
        return run.draw(now, then) if self.tau > 0 else None

    def move(self, x, now, then, nodes, fresh):
        return stochastic(x, now, then, self._estimate(now, then, nodes), self.tau, fresh)

    def _estimate(self, now: NoiseLevel, then: NoiseLevel, nodes: list[Node]) -> torch.Tensor:
        """Return the constant estimate with which the step is the same as with the polynomial."""
        newest = nodes[-1]
        if len(nodes) == 1 or then.clean:
            return newest.denoised
        if len(nodes) == 2 and newest.level is now:
            return second_order(newest.denoised, (nodes[0].denoised, nodes[0].level.lamb), now, then)
        if len(nodes) == 2:
            return (nodes[0].denoised + newest.denoised) / 2
        share = 1 + self.tau**2
        weights = lagrange_integrals([node.level.lamb for node in nodes], now.lamb, then.lamb, POINTS,
                                     lambda lamb: share * np.exp(share * (lamb - then.lamb)))
        whole = 1 - decay(now, then) ** share
        return sum(weight / whole * node.denoised for weight, node in zip(weights, nodes, strict=True))


@dataclass(kw_only=True)
class SASolverSampler(ExponentialAdamsSampler):
    """SA-Solver (Xue et al. 2023) with constant tau: predictor of `order` nodes, corrector of one more.

    tau 0 is UniPC.
    """

    always_corrects = True
    strong_order, weak_order = 1, 2
    tau: NotNegative = 1.0  # type: ignore[misc]  # a parameter here, a constant of the class elsewhere


@dataclass(kw_only=True)
class UniPCSampler(ExponentialAdamsSampler):
    """UniPC on estimates of x0 with B(h) = exp(h) - 1 (Zhao et al. 2023, section 3): UniP-`order`, then UniC-`order`.

    With more than two nodes, its coefficients solve a Vandermonde system, which is the same as integrating the
    polynomial; B(h) matters only with two. The corrector adds one to the order (theorem 3.1). The first step is only of
    third order, so that the order is 3 with `order` 3 too; from high noise, where estimates hardly change, it looks
    like 4.
    """

    always_corrects = True
    order: Positive = 2


@dataclass(kw_only=True)
class DPMPP3MSampler(ExponentialAdamsSampler):
    """DPM-Solver++(3M) (Lu et al. 2022b, with three estimates), with its first step corrected."""

    orders = (3,)


@dataclass(kw_only=True)
class SDEDPMPP3MSampler(ExponentialAdamsSampler):
    """SDE-DPM-Solver++ with three estimates (Lu et al. 2022b, extended by one order)."""

    orders, tau = (3,), 1.0
    strong_order, weak_order = 1, 2


@dataclass(kw_only=True)
class DEISSampler(AdamsSampler):
    """tAB-DEIS with up to `order` nodes (Zhang and Chen 2023).

    The polynomial interpolates noise estimates in the time t = arctan(sigma / alpha) of the cosine VP schedule,
    whatever the schedule. The steps from zero SNR and to the clean end, where its integral diverges or is undefined,
    are Euler steps.
    """

    order: Positive = 3

    @property
    def convergence_order(self) -> int:  # type: ignore[override]  # depends on the order
        return self.order

    def history_again(self, history):
        return None  # its estimates are of other noise

    def move(self, x, now, then, nodes, fresh):
        if then.clean:
            return euler(x, now, then, nodes[-1].denoised)
        if math.isinf(now.ratio):  # with one node, or two in the correction
            return euler(x, now, then, sum(node.denoised for node in nodes) / len(nodes))
        times = [math.atan(node.level.ratio) for node in nodes]
        weights = lagrange_integrals(times, -now.lamb, -then.lamb, POINTS, np.exp, lambda log: np.arctan(np.exp(log)))
        moved = sum(weight * node.noise for weight, node in zip(weights, nodes, strict=True))
        return then.alpha * (x / now.alpha + moved)
