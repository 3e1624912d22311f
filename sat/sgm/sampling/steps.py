"""Step formulas shared by several samplers, for x = alpha * x0 + sigma * noise."""
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from sgm.noise_schedule import NoiseLevel, NoiseSchedule


def euler(x: torch.Tensor, now: NoiseLevel, then: NoiseLevel, denoised: torch.Tensor) -> torch.Tensor:
    """Take an Euler step of the probability-flow ODE: DDIM (Song et al. 2021, eq. 12) in (alpha, sigma).

    With alpha = 1 it is the Euler step of EDM (Karras et al. 2022, algorithm 1).
    """
    return then.alpha * denoised + then.sigma / now.sigma * (x - now.alpha * denoised)


def decay(now: NoiseLevel, then: NoiseLevel) -> float:
    """Return exp(-h) with h = lambda' - lambda, the factor by which sigma / alpha falls; 0 from zero SNR."""
    return then.ratio / now.ratio


def stochastic(x: torch.Tensor, now: NoiseLevel, then: NoiseLevel, estimate: torch.Tensor, tau: float,
               noise: torch.Tensor | None) -> torch.Tensor:
    """Take a step of the diffusion SDE with tau times the reverse SDE's noise, exact for a constant estimate of x0.

    tau 0 is an Euler step (`noise` has no effect), 1 the reverse SDE (SA-Solver, Xue et al. 2023).
    """
    kept = decay(now, then) ** tau**2
    x = then.sigma / now.sigma * kept * x + then.alpha * (1 - decay(now, then) * kept) * estimate
    return x if noise is None else x + then.sigma * math.sqrt(1 - kept**2) * noise


def churn(x: torch.Tensor, now: NoiseLevel, gamma: float, noise: torch.Tensor,
          schedule: NoiseSchedule) -> tuple[torch.Tensor, NoiseLevel]:
    """Return x and its level with sigma / alpha raised by the factor 1 + gamma, by adding fresh noise.

    See Karras et al. 2022, algorithm 2, lines 4 to 6.
    """
    hat = schedule.at_ratio(now.ratio * (1 + gamma), now.index)
    added = math.sqrt(hat.ratio**2 - now.ratio**2)
    return hat.alpha * (x / now.alpha + added * noise), hat


def noised_back(x: torch.Tensor, now: NoiseLevel, then: NoiseLevel, noise: torch.Tensor) -> torch.Tensor:
    """Return x at `then` with noise added until it is at `now`, a noisier level of nonzero signal-to-noise ratio."""
    kept = now.alpha / then.alpha
    return kept * x + math.sqrt(max(now.sigma**2 - (kept * then.sigma)**2, 0)) * noise


def ancestral_split(now: NoiseLevel, then: NoiseLevel, eta: float) -> tuple[float, float]:
    """Return (down, up) with down^2 + up^2 = ratio'^2: a step goes down to `down`, then adds noise of deviation `up`.

    This is Song et al. 2021, eq. 16, in sigma / alpha; eta 1 is DDPM's posterior.
    """
    up = min(then.ratio, eta * then.ratio * math.sqrt(1 - decay(now, then) ** 2))
    return math.sqrt(then.ratio**2 - up**2), up


def second_order(denoised: torch.Tensor, older: tuple[torch.Tensor, float] | None, now: NoiseLevel,
                 then: NoiseLevel) -> torch.Tensor:
    """Return DPM-Solver++(2M)'s estimate, extrapolated from this one and the `older` one with its lambda.

    See Lu et al. 2022b, algorithm 2. On the first step, after a step from zero SNR, and on the step to the clean end it
    is `denoised` itself (first order).
    """
    if older is None or then.clean or math.isinf(older[1]):
        return denoised
    last, last_lamb = older
    return denoised + (denoised - last) * (then.lamb - now.lamb) / (2 * (now.lamb - last_lamb))


def exact_second_order(denoised: torch.Tensor, older: tuple[torch.Tensor, float] | None, now: NoiseLevel,
                       then: NoiseLevel) -> torch.Tensor:
    """Return the constant estimate with which a step is that of the line in lambda through two, integrated exactly.

    See Zhang et al. 2023 (RES). It is `denoised` itself where `second_order` is.
    """
    if older is None or then.clean or math.isinf(older[1]):
        return denoised
    last, last_lamb = older
    middle = (then.lamb - now.lamb) / (1 - decay(now, then)) - 1
    return denoised + (denoised - last) * middle / (now.lamb - last_lamb)


def lagrange_integrals(nodes: Sequence[float], start: float, end: float, points: int,
                       weight: Callable[[np.ndarray], np.ndarray] = np.ones_like,
                       variable: Callable[[np.ndarray], np.ndarray] = np.asarray) -> list[float]:
    """Return the integrals from start to end of weight(t) times the Lagrange polynomials of variable(t) on `nodes`.

    Gauss-Legendre quadrature with n points is exact for polynomials of degree below 2n; n is `points`.
    """
    places, widths = _gauss_legendre(points)
    t = (end - start) / 2 * places + (end + start) / 2
    weighted, at = weight(t) * widths * (end - start) / 2, variable(t)
    others = [[*nodes[:i], *nodes[i + 1:]] for i in range(len(nodes))]
    return [float(np.sum(weighted * np.prod([(at - other) / (node - other) for other in rest], axis=0)))
            for node, rest in zip(nodes, others, strict=True)]


_gauss_legendre = lru_cache(np.polynomial.legendre.leggauss)
