"""Single-step samplers, which use no estimates of earlier steps: Euler, Heun, ancestral, DDIM and DDPM."""
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt

from common.errors import ConfigError
from common.kinds import NotNegative, Share, Unlimited
from common.tensors import Generators
from sgm.sampling.base import Sampler, StepInfo
from sgm.sampling.start import FromClip
from sgm.sampling.steps import ancestral_split, churn, decay, euler


@dataclass(kw_only=True)
class EulerEDMSampler(Sampler):
    """Euler's method with churn (Karras et al. 2022, algorithm 2, without the second-order correction).

    Churn raises the noise by a factor of at most sqrt(2) where s_tmin <= sigma / alpha <= s_tmax, except at zero SNR.
    """

    convergence_order, nfe = 1, 1
    strong_order, weak_order = 1, 1
    s_churn: NotNegative = 0.0
    s_tmin: NotNegative = 0.0
    s_tmax: Unlimited = math.inf
    s_noise: NotNegative = 1.0

    def churned(self, x, now, then, run):
        churns = self.s_churn > 0 and self.s_tmin <= now.ratio <= self.s_tmax and not math.isinf(now.ratio)
        if not churns:
            return x, now
        gamma = min(self.s_churn / now.num_steps, math.sqrt(2) - 1)
        return churn(x, now, gamma, self.s_noise * run.draw(now, then), run.schedule)

    def step(self, x, now, then, run, state):
        x, hat = self.churned(x, now, then, run)
        denoised, state = run.predict(x, hat, state)
        return euler(x, hat, then, denoised), denoised, state


@dataclass(kw_only=True)
class HeunEDMSampler(EulerEDMSampler):
    """Heun's method (trapezoidal rule) in sigma / alpha, with churn (Karras et al. 2022, algorithm 2).

    Written as an Euler step with a corrected estimate. Two steps are Euler steps: that from zero SNR, whose interval is
    infinite, and that to the clean end, where the derivative is undefined (line 9 of the algorithm).
    """

    convergence_order, nfe = 2, 2
    strong_order, weak_order = 1, 2

    def step(self, x, now, then, run, state):
        x, hat = self.churned(x, now, then, run)
        denoised, state = run.predict(x, hat, state)
        x_euler = euler(x, hat, then, denoised)
        if then.clean or math.isinf(hat.ratio):
            return x_euler, denoised, state
        after, state = run.predict(x_euler, then, state)
        corrected = denoised + (after - denoised) * hat.ratio / (2 * then.ratio)
        return euler(x, hat, then, corrected), denoised, state


@dataclass(kw_only=True)
class EulerAncestralSampler(Sampler):
    """Euler's method to below the next noise level, which fresh noise then restores (Song et al. 2021).

    `eta` 0 is Euler's method, 1 is DDPM.
    """

    convergence_order, nfe = 1, 1
    strong_order, weak_order = 1, 1
    eta: NotNegative = 1.0
    s_noise: NotNegative = 1.0

    def add_noise(self, x, now, then, up, run):
        return x if up == 0 else x + self.s_noise * then.alpha * up * run.draw(now, then)

    def below(self, now, then):
        """Return the level to step down to, with then's alpha, and how much noise to add after it."""
        down, up = ancestral_split(now, then, self.eta)
        return replace(then, sigma=then.alpha * down), up

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        below, up = self.below(now, then)
        return self.add_noise(euler(x, now, below, denoised), now, then, up, run), denoised, state


@dataclass(kw_only=True)
class DPMPP2SAncestralSampler(EulerAncestralSampler):
    """DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1, midpoint in lambda) with ancestral noise.

    The steps from zero SNR, where lambda has no midpoint, and to the clean end are Euler steps.
    """

    convergence_order, nfe = 2, 2
    strong_order, weak_order = 1, 2

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        below, up = self.below(now, then)
        estimate = denoised
        if not (below.clean or math.isinf(now.ratio)):
            middle = run.schedule.at_ratio(math.sqrt(now.ratio * below.ratio), now.index + 0.5)
            estimate, state = run.predict(euler(x, now, middle, denoised), middle, state)
        return self.add_noise(euler(x, now, below, estimate), now, then, up, run), denoised, state


@dataclass(kw_only=True)
class DDIMSampler(Sampler):
    """DDIM (Song et al. 2021, eq. 12) with fresh noise of standard deviation `s_noise` times the next sigma.

    Noise of a fixed size in every step would take the samples away from the data's distribution the further, the more
    steps there are. So with more than `FULL_NOISE_STEPS` its variance falls as their number grows, and a step never
    adds more than DDPM's would (eq. 16 with eta 1), which `s_noise` 1 asks for.
    """

    FULL_NOISE_STEPS: ClassVar[int] = 50  # the released number of steps; up to it, `s_noise` is as released

    convergence_order, nfe = 1, 1
    strong_order, weak_order = 1, 1
    s_noise: Share = 0.1

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        share = min(self.s_noise * math.sqrt(min(1, self.FULL_NOISE_STEPS / now.num_steps)),
                    math.sqrt(1 - decay(now, then)**2))
        x = euler(x, now, replace(then, sigma=then.sigma * math.sqrt(1 - share**2)), denoised)
        if not then.clean and share > 0:
            x = x + share * then.sigma * run.draw(now, then)
        return x, denoised, state


@dataclass(kw_only=True)
class VideoDDIMSampler(Sampler):
    """DDIM without noise (Song et al. 2021, eq. 12)."""

    convergence_order, nfe = 1, 1

    def step(self, x, now, then, run, state):
        denoised, state = run.predict(x, now, state)
        return euler(x, now, then, denoised), denoised, state


@dataclass(kw_only=True)
class Image2VideoDDIMSampler(VideoDDIMSampler):
    """VideoDDIMSampler with the released call signature, whose leading `image` is not used and may be left out."""

    def __call__(self, *args, **kwargs) -> torch.Tensor:
        kwargs.pop("image", None)
        if args and not callable(args[0]):  # the image stands before the denoiser
            args = args[1:]
        return super().__call__(*args, **kwargs)


@dataclass(kw_only=True)
class VideoDDPMSampler(EulerAncestralSampler):
    """DDPM's posterior between the chosen steps (Ho et al. 2020, eq. 6 and 7): ancestral sampling with eta 1."""


@dataclass(kw_only=True)
class SdeditEDMSampler(EulerEDMSampler):
    """SDEdit (Meng et al. 2022): skips the first `edit_ratio` of the steps by starting from a noised clean latent."""

    starts_from_image = True
    edit_ratio: Annotated[float, Ge(0), Lt(1)] = 0.5

    def __call__(self, denoiser: Callable, image: torch.Tensor, x: torch.Tensor,  # type: ignore[override]
                 cond: Mapping, uc: Mapping | None = None, num_steps: int | None = None, scale=None,
                 generator: Generators = None, callback: Callable[[StepInfo], None] | None = None,
                 edit_ratio: float | None = None, **model_inputs) -> torch.Tensor:
        """Sample latents from the latent `image` and unit noise x, both (B, T, C, H, W); otherwise as in Sampler.

        Raises ConfigError for an `edit_ratio` outside [0, 1).
        """
        edit_ratio = self.edit_ratio if edit_ratio is None else edit_ratio
        if not 0 <= edit_ratio < 1:
            raise ConfigError(f"edit_ratio: {edit_ratio} must be at least 0 and below 1")
        return super().__call__(denoiser, x, cond, uc, num_steps, scale, generator, callback,
                                FromClip(image, 1 - edit_ratio), **model_inputs)
