"""The passes of guidance divided among processes, which all end with all estimates: the numbers of one process.

Rounding aside: a pass that is computed alone goes through matrix products of another shape than two that are joined.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class SharedPasses:
    """Deals passes out by their numbers to the processes of a group, all of which must ask for them.

    A guider's pass stays with one process, so that what a step cache remembers of it is there.
    """

    group: dist.ProcessGroup
    ranks: Sequence[int]

    def estimates(self, passes: Sequence[int], ask: Callable[[list[int]], list[Tensor]], like: Tensor) -> list[Tensor]:
        """One estimate per pass on every process, each of `like`'s shape; `ask` computes those at some places in
        `passes`, in their order."""
        rank = dist.get_rank()
        owners = [self.ranks[number % len(self.ranks)] for number in passes]
        own = [i for i, owner in enumerate(owners) if owner == rank]
        computed = dict(zip(own, ask(own), strict=True))
        estimates = [computed[i].contiguous() if i in computed else torch.empty_like(like) for i in range(len(passes))]
        for estimate, owner in zip(estimates, owners, strict=True):
            dist.broadcast(estimate, owner, group=self.group)
        return estimates
