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
    low, high, config = 1, passes, json.loads(parts)
    first = build_sampler(config, 1)
    if first.adaptive:
        raise ConfigError(f"{type(first).__name__} chooses its own steps, so that passes cannot be kept to: give steps")
    if passes_of(first) > passes:
        raise ConfigError(f"a step takes {passes_of(first)} passes, more than {passes}")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if passes_of(build_sampler(config, middle)) <= passes else (low, middle - 1)
    return low
