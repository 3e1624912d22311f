"""The log-likelihood of latents under a denoiser, by the change of variables along its probability-flow ODE."""
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch

from common.errors import ConfigError
from common.tensors import at_least_float32
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseLevel, NoiseSchedule
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.parts import UNGUIDED


@dataclass(frozen=True)
class Trace:
    """The trace of a Jacobian, row by row: exact, or by Hutchinson's estimator with `probes` of random signs.

    Hutchinson's estimator (Hutchinson 1990) has the right mean; one set of probes serves a whole run (FFJORD,
    Grathwohl et al. 2019), so that its error does not depend on the number of steps.
    """

    probes: int = 1
    generator: torch.Generator | None = None
    exact: bool = False

    def directions(self, x: torch.Tensor) -> torch.Tensor:
        """Return the directions (N, B, ...) over which products are averaged, or added up for the exact trace."""
        if not self.exact:
            signs = torch.randint(2, (self.probes, *x.shape), generator=self.generator)
            return (2 * signs - 1).to(x)
        size = x[0].numel()
        basis = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:])
        return basis.expand(size, *x.shape)

    def of(self, output: torch.Tensor, x: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Return the traces (N or 1, B) of d output / d x, one for each probe."""
        products = torch.stack([
            (torch.autograd.grad(output, x, direction, retain_graph=True)[0] * direction).flatten(1).sum(1)
            for direction in directions])
        return products.sum(0, keepdim=True) if self.exact else products


def log_likelihood(denoiser: Callable, x: torch.Tensor, cond: Mapping, schedule: NoiseSchedule,
                   trace: Trace | None = None, **model_inputs) -> torch.Tensor:
    """Return log p (N, B) of latents x (B, T, C, H, W) at the schedule's least noise, in nats, for each of N probes.

    x is alpha x0 + sigma noise at the level before the clean end: p is the density of noised latents, which a network
    knows, and not that of clean ones. With y = x / alpha and s = sigma / alpha, the flow dy / ds = (y - D) / s leads to
    the schedule's noisiest level, where y is taken to be Gaussian with deviation s; on the way log p changes by the
    divergence (Chen et al. 2018; Song et al. 2021b, eq. 39). The steps are Heun's, of z = y / sqrt(1 + s^2) in log s,
    so that levels in even steps of log-SNR suit it. The noisiest level must have a signal, unlike zero SNR. Raises
    ConfigError otherwise.
    """
    levels, trace = schedule.levels()[:-1], trace or Trace()
    if math.isinf(levels[0].ratio) or len(levels) < 2:
        raise ConfigError("likelihood: the schedule needs two or more levels, and a noisiest one with some signal "
                          "(sigma_max), so that the flow can reach it")
    predict = Guided(denoiser, UNGUIDED, Conditioning(cond), None, model_inputs)
    x = at_least_float32(x)
    directions = trace.directions(x)

    def slope(z: torch.Tensor, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dz / d log s (B, ...) and -d log p(y) / d log s (N, B)."""
        size = math.hypot(1, level.ratio)
        with torch.enable_grad():
            y = (z * size).detach().requires_grad_()
            denoised, _ = predict(y * level.alpha, level, StepState())
            spread = y[0].numel() - trace.of(denoised, y, directions)
        return z / size**2 - denoised.detach() / size, spread

    z = x / levels[-1].alpha / math.hypot(1, levels[-1].ratio)
    total = -z[0].numel() * math.log(levels[-1].alpha) * torch.ones(1, len(z), dtype=z.dtype, device=z.device)
    for now, then in pairwise(levels[::-1]):
        width = now.lamb - then.lamb
        first, spread = slope(z, now)
        second, spread_after = slope(z + width * first, then)
        z = z + width * (first + second) / 2
        total = total + width * (spread + spread_after) / 2
    highest = levels[0].ratio
    y = z * math.hypot(1, highest)
    gauss = -(y / highest).square().flatten(1).sum(1) / 2 - y[0].numel() * math.log(highest * math.sqrt(2 * math.pi))
    return total + gauss
