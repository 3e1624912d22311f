"""Exponential moving average of the weights, which samples better than the last weights."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.ranks import rank_and_count
from training.partition import own_part, part_of, whole


class WeightAverage:
    """Averages in float32 whatever the dtype of the weights; short while training is young.

    Where weights are divided among processes, so is their average: `values` are this process's pieces.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.parameters = dict(parameters)
        self.decay = decay
        self.values = {name: own_part(p).float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step number `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = [own_part(p).float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), current, weight)

    def whole(self) -> dict[str, Tensor]:
        """The average of every weight, on the CPU; called by all processes, empty in all but the first."""
        averages = ((name, whole(p, self.values[name])) for name, p in self.parameters.items())
        return {name: value.cpu() for name, value in averages if rank_and_count()[0] == 0}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Takes up what `whole` gave."""
        for name, value in self.values.items():
            value.copy_(part_of(self.parameters[name], values[name]))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and afterwards its own again, bit for bit."""
        own = {name: own_part(p).clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            own_part(parameter).copy_(self.values[name])
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                own_part(parameter).copy_(own[name])
