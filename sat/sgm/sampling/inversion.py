"""Inversion: from clean latents to the noise that a deterministic sampler turns into them."""
import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from common.tensors import append_dims, at_least_float32
from sgm.conditioning import Conditioning
from sgm.noise_schedule import NoiseSchedule
from sgm.sampling.base import Sampler, StepInfo, check_finite
from sgm.sampling.guided import Guided, StepState
from sgm.sampling.single_step import EulerEDMSampler, Image2VideoDDIMSampler, VideoDDIMSampler
from sgm.sampling.start import FromLevel, check_strength

ROUNDS = 4

Iterate = tuple[Tensor, Tensor]  # of a fixed-point iteration: how far it moved a guess, and where to


def undoes_inversion(sampler: Sampler) -> bool:
    """Return True if all of the sampler's steps are plain Euler steps, without added noise or fixed frames."""
    euler = type(sampler) in (EulerEDMSampler, VideoDDIMSampler, Image2VideoDDIMSampler)
    return euler and sampler.fixed_frames == 0 and getattr(sampler, "s_churn", 0) == 0


def noisiest_inverted(schedule: NoiseSchedule, strength: float) -> int:
    """Return the index of the noisiest level that inversion over `strength` of the steps reaches."""
    noisiest = next(int(level.index) for level in schedule.levels() if not math.isinf(level.ratio))
    return max(noisiest, schedule.index_with_left(strength))


def invert(sampler: Sampler, denoiser: Callable, latents: Tensor, cond: Conditioning | Mapping,
           num_steps: int | None = None, strength: float = 1.0, callback: Callable[[StepInfo], None] | None = None,
           rounds: int = ROUNDS, **model_inputs) -> FromLevel:
    """Return the start from which `sampler`, without guidance, arrives at clean `latents` (B, T, C, H, W).

    This follows DDIM's ODE from clean to noise (Song et al. 2021, eq. 14) over `strength` of the steps, but stops at
    the noisiest level of nonzero signal-to-noise ratio: at zero terminal SNR nothing of the clip could be left.

    Each step solves for the latents from which an Euler step would lead to the current ones, by `rounds` fixed-point
    iterations that begin at the current latents, accelerated (Pan et al. 2023); one round is ordinary DDIM inversion.
    `callback` is given a StepInfo for each step. Raises ConfigError for a strength outside 0 to 1, and NumericalError
    naming the step at which the latents are no longer finite.
    """
    check_strength(strength)
    schedule = sampler.schedule(num_steps)
    levels, noisiest = schedule.levels(), noisiest_inverted(schedule, strength)
    conditioning, state = Conditioning.of(cond).unguided(), StepState()
    predict = Guided(denoiser, sampler.guider, conditioning, None, model_inputs)
    x = at_least_float32(latents)
    from_clean = levels[noisiest:][::-1]
    for now, then in pairwise(from_clean):
        before = guess = x
        last = None
        for _ in range(rounds):
            denoised, state = predict(guess, then, state)
            noise = (guess - then.alpha * denoised) / then.sigma
            found = then.alpha / now.alpha * (x - now.sigma * noise) + then.sigma * noise
            guess, last = _accelerated(guess, found, last)
        x = guess
        check_finite(x, f"inversion step {now.num_steps - then.index} of {now.num_steps - noisiest}")
        if callback is not None:
            done, steps = now.num_steps - int(now.index), now.num_steps - noisiest
            callback(StepInfo(done, steps, before, denoised, now.alpha, now.sigma,
                              predict.timestep(now), predict.scale_at(now), state.passes))
    return FromLevel(x, noisiest)


def _accelerated(guess: Tensor, found: Tensor, last: Iterate | None) -> tuple[Tensor, Iterate]:
    """Return the next guess of a fixed point, (B, ...), and this iterate, which the next call is given as `last`.

    `found` is what the iteration makes of `guess`. From the second on, each row goes as far past it as would end the
    iteration, if what is left shrank along a line: Anderson's method of depth one (Walker and Ni 2011).
    """
    left = found - guess
    if last is None:
        return found, (left, found)
    left_before, found_before = last
    change = (left - left_before).flatten(1)
    share = (left.flatten(1) * change).sum(1) / change.square().sum(1).clamp_min(torch.finfo(change.dtype).tiny)
    return found - append_dims(share, found.ndim) * (found - found_before), (left, found)
