"""The exponential moving average of the weights, which gives better samples than the last weights."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.ranks import is_main_process
from training.partition import own_part, part_of, whole


class WeightAverage:
    """The average of the trained parameters, kept in float32 for weights of any dtype.

    It covers fewer steps early in training. Where weights are divided among processes, so is the average: `values`
    holds this process's part of each.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.parameters = dict(parameters)
        self.decay = decay
        self.values = {name: own_part(p).float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the current weights; called after optimizer step `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = [own_part(p).float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), current, weight)

    def whole(self) -> dict[str, Tensor]:
        """Return the average of every weight on the CPU; called on all ranks, empty on all but rank 0."""
        averages = {}
        for name, parameter in self.parameters.items():
            value = whole(parameter, self.values[name])  # a collective: every rank takes part
            if is_main_process():
                averages[name] = value.cpu()
        return averages

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Restore averages that `whole` returned."""
        for name, value in self.values.items():
            value.copy_(part_of(self.parameters[name], values[name]))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Context manager that gives the model the averaged weights, and then its own back, bit for bit."""
        own = {name: own_part(p).clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            own_part(parameter).copy_(self.values[name])
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                own_part(parameter).copy_(own[name])
