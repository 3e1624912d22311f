"""The sampler of a cell's parts, and its cost in network evaluations, counted on Gaussian data."""
import json
from collections.abc import Mapping
from functools import cache

import torch

from benchmarks.exact import Gaussian
from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from sgm.sampling import Sampler

SHAPE = (1, 2, 4, 2, 2)


def build_sampler(parts: Mapping[str, Mapping | None], steps: int) -> Sampler:
    """Return the sampler of `{sampler, schedule, guidance}`. Raises ConfigError if they are invalid or do not fit."""
    sampler = parts["sampler"]
    params = {**(sampler.get("params") or {}), "discretization_config": parts["schedule"],
              "guider_config": parts["guidance"], "num_steps": steps}
    return instantiate_from_config({**sampler, "params": params})


def steps_within(passes: int, parts: Mapping[str, Mapping | None]) -> int:
    """Return the most steps for which these parts take at most `passes` network evaluations for a video.

    Raises ConfigError if one step takes more, or if the sampler chooses its steps itself.
    """
    return _most_steps(passes, json.dumps(parts))


def passes_of(sampler: Sampler) -> int:
    """Return the network evaluations for a video of a run."""
    counted = [0]
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cond, uncond = ({"crossattn": torch.full((1, 1, 1), mean)} for mean in (1.0, 0.0))
    sampler(Gaussian(sampler.discretization.parameterization), noise, cond, uncond,
            generator=torch.Generator().manual_seed(1), callback=lambda step: counted.append(step.passes))
    return counted[-1]


@cache
def _most_steps(passes: int, parts: str) -> int:
    """Return the most steps, found by halving between one and as many as there are passes."""
    low, high, config = 0, passes, json.loads(parts)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _passes(config, middle) <= passes else (low, middle - 1)
    if low == 0:
        raise ConfigError(f"a step takes {_passes(config, 1)} passes, more than {passes}")
    build_sampler(config, low).schedule()  # raises its error if even these are too few steps
    return low


def _passes(config: Mapping, steps: int) -> int:
    """Return the passes of a run, 0 if a schedule of so few steps is refused, as it is where a restart has no level."""
    sampler = build_sampler(config, steps)
    if sampler.adaptive:
        raise ConfigError(f"{type(sampler).__name__} chooses its own steps, so that passes cannot be kept to: give "
                          "steps")
    try:
        sampler.schedule()
    except ConfigError:
        return 0
    return passes_of(sampler)
