"""Check on data that are one clip: its estimate is the same everywhere, so that latents are exactly at their level.

There is nothing to approximate then. Whatever the steps, the latents at a level are alpha times the clip plus noise of
deviation sigma, independent in every element, and so are those that an estimate is made from. A coefficient, a level,
an amount of noise or an index that is wrong shows at once, also in methods of first order, whose order it leaves alone.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch

from benchmarks.checks.outcome import Outcome
from benchmarks.checks.problems import Problems, sampler_of
from benchmarks.exact_moments import impulses, moments_of, steps_of
from common.errors import ConfigError
from sgm.noise_schedule import NoiseSchedule
from sgm.parameterization import Parameterization
from sgm.sampling import Sampler

SHAPE = (2, 2, 2, 1)  # elements along time, channels and height, each with noise of its own
TOLERANCE, ROUNDINGS = 1e-6, 16
COUNTS = (12, 13, 1, 2, 3, 50)  # of steps: even and odd, so few that a multistep method only begins, and usual ones
SIZE = 1000.0  # of the clip's numbers, which nothing may limit
STEP = ("look in that step for a coefficient, an index or an amount of noise that belongs to another level. A method "
        "that keeps its levels only nearly, such as Euler-Maruyama's, declares exact_for_one_clip = False")
ESTIMATE = ("run.predict(x, level, state) has to be given the level that x is at; look for another level, and for an "
            "amount of noise that was added to x before")


@dataclass(frozen=True)
class Beside:
    """What latents at a level have: `times` sigma as the deviation of their noise, in the element where it is most off;
    the clip's part is `off` by this, in sigma; noise of two elements has the correlation `mixed`. At the clean end,
    where sigma is 0, the first is 1 plus the noise that is left."""

    times: float
    off: float
    mixed: float
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, x: torch.Tensor, alpha: float, sigma: float, clip: torch.Tensor) -> "Beside":
        """Measure the latents x (rows, ...) of a run that began as `impulses`."""
        mean, covariance = moments_of(x)
        off, deviations = float((mean - alpha * clip.flatten()).abs().max()), covariance.diag().clamp(min=0).sqrt()
        if sigma == 0:
            return cls(1 + float(deviations.max()), off, 0.0)
        times = deviations / sigma
        mixed = (covariance - covariance.diag().diag()).abs().max() / sigma**2
        # A clip's large numbers leave no more digits than these to noise far below them.
        tolerance = max(TOLERANCE, ROUNDINGS * torch.finfo(x.dtype).eps * float(clip.abs().max()) / sigma)
        return cls(float(times[(times - 1).abs().argmax()]), off / sigma, float(mixed), tolerance)

    @property
    def right(self) -> bool:
        return max(abs(self.times - 1), self.off, self.mixed) < self.tolerance

    def __str__(self) -> str:
        if abs(self.times - 1) >= self.tolerance:
            return f"the noise there is {self.times:.{4 if abs(self.times - 1) > 1e-3 else 9}g} times the level's"
        if self.off >= self.tolerance:
            return f"the clip's part there is off by {self.off:.2g} of the noise"
        return f"the noise there of two elements has the correlation {self.mixed:.2g}"


class OneClip:
    """The exact denoiser of a single clip (T, C, H, W), which remembers the first latents that were not at their level.

    A method that goes through the rows one by one cannot be measured, and is not.
    """

    def __init__(self, parameterization: Parameterization, clip: torch.Tensor, rows: int):
        self.parameterization, self.clip, self.rows = parameterization, clip, rows
        self.wrong: tuple[float, Beside] | None = None

    def __call__(self, x, level, cond, idx=None, **inputs):
        if len(x) == self.rows and self.wrong is None:
            alpha, sigma = (float(value[0]) for value in self.parameterization.alpha_sigma(level))
            found = Beside.of(x, alpha, sigma, self.clip)
            self.wrong = None if found.right else (sigma, found)
        return self.clip.expand_as(x)


def at_their_levels(config: Mapping, problems: Problems, discretization: Mapping) -> Outcome:
    """Check that for one clip each step arrives at its level, and each estimate is asked for at that of its latents."""
    sampler, taken = sampler_of(config, discretization), []
    for count_of_steps in COUNTS:
        try:
            schedule = sampler.schedule(count_of_steps)
        except ConfigError:  # some methods refuse very few steps
            continue
        outcome = _with_steps(sampler, problems, schedule)
        if not outcome.passed:
            return outcome
        taken.append(count_of_steps)
    return Outcome(bool(taken), f"with {', '.join(map(str, sorted(taken)))} steps", "it refuses all of "
                   f"{', '.join(map(str, COUNTS))} steps")


def _with_steps(sampler: Sampler, problems: Problems, schedule: NoiseSchedule) -> Outcome:
    """Check the steps of one schedule."""
    clip = SIZE * problems.noise(SHAPE)
    first = schedule.levels()[0]
    unit_noise = torch.eye(clip.numel(), dtype=clip.dtype)
    x, noise = impulses(sampler, schedule, first.alpha * clip.flatten(), first.sigma**2 * unit_noise, SHAPE)
    data = OneClip(schedule.parameterization, clip, len(x))
    for number, (then, after) in zip(count(1), steps_of(sampler, schedule, x, data, noise), strict=False):
        found, step = Beside.of(after, then.alpha, then.sigma, clip), f"step {number} of {schedule.num_steps}"
        if data.wrong is not None:
            sigma, found = data.wrong
            return Outcome(False, f"{step} asks for an estimate at sigma {sigma:.4g}, and {found}", ESTIMATE)
        if not found.right:
            return Outcome(False, f"{step} arrives at sigma {then.sigma:.4g}, and {found}", STEP)
    return Outcome(True, f"in all of {schedule.num_steps} steps")
