"""Inversion: from clean latents to the noise that a sampler without noise of its own turns into them."""
import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch

from common.tensors import at_least_float32
from sgm.sampling.base import Sampler, StepInfo, check_finite
from sgm.sampling.guided import Guided
from sgm.sampling.single_step import EulerEDMSampler, Image2VideoDDIMSampler, VideoDDIMSampler
from sgm.sampling.start import FromLevel, check_strength

ROUNDS = 3


def undoes_inversion(sampler: Sampler) -> bool:
    """Whether each of the sampler's steps is Euler's alone, without noise of its own or frames held fixed."""
    euler = type(sampler) in (EulerEDMSampler, VideoDDIMSampler, Image2VideoDDIMSampler)
    return euler and sampler.fixed_frames == 0 and getattr(sampler, "s_churn", 0) == 0


def invert(sampler: Sampler, denoiser: Callable, latents: torch.Tensor, cond: Mapping, num_steps: int | None = None,
           strength: float = 1.0, callback: Callable[[StepInfo], None] | None = None, rounds: int = ROUNDS,
           **model_inputs) -> FromLevel:
    """Where to start `sampler`'s schedule, without guidance, to arrive at clean `latents` (B, T, C, H, W).

    DDIM's ODE from clean to noise (Song et al. 2021, eq. 14) as far as `strength` of the steps, but no further than
    the noisiest level of finite signal-to-noise ratio: at zero terminal SNR nothing of the clip could be left.

    Each step solves for the latents from which Euler's step would have come here, by `rounds` fixed-point iterations
    from the latents at hand (Garibi et al. 2024); the first alone is DDIM inversion as it is best known.
    `callback` gets StepInfo of the step upwards. Raises ConfigError for a strength outside 0 to 1, NumericalError
    naming the step that left the finite numbers.
    """
    check_strength(strength)
    schedule = sampler.schedule(num_steps)
    levels = schedule.levels()
    noisiest = next(level.index for level in levels if not math.isinf(level.ratio))
    last = max(noisiest, schedule.index_with_left(strength))
    predict = Guided(denoiser, sampler.guider, cond, None, None, model_inputs)
    x = at_least_float32(latents)
    for now, then in pairwise(levels[:last - 1 if last else None:-1]):
        before = guess = x
        for _ in range(rounds):
            denoised = predict(guess, then)
            noise = (guess - then.alpha * denoised) / then.sigma
            guess = then.alpha / now.alpha * (x - now.sigma * noise) + then.sigma * noise
        x = guess
        check_finite(x, f"inversion step {now.num_steps - then.index} of {now.num_steps - last}")
        if callback is not None:
            callback(StepInfo(now.num_steps - now.index, now.num_steps - last, before, denoised, now.alpha, now.sigma,
                              predict.timestep(now), predict.scale_at(now), predict.passes))
    return FromLevel(x, last)
