"""Branches of a guided step divided among processes; every process gets all denoised estimates.

Results equal those of one process up to rounding: one branch alone has matrix products of another shape than two in one
batch.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class SharedBranches:
    """The division of branches, by their indices, among the processes of a group, all of which must take part.

    A branch is always computed by the same process, which holds the step cache's state of it.
    """

    group: dist.ProcessGroup
    ranks: Sequence[int]

    def estimates(self, passes: Sequence[int], ask: Callable[[list[int]], list[Tensor]], like: Tensor) -> list[Tensor]:
        """Return one denoised estimate per branch in `passes` (indices), on every process, each of `like`'s shape.

        `ask` computes the estimates at the given positions in `passes`, in that order.
        """
        rank = dist.get_rank()
        owners = [self.ranks[number % len(self.ranks)] for number in passes]
        own = [i for i, owner in enumerate(owners) if owner == rank]
        computed = dict(zip(own, ask(own), strict=True))
        estimates = [computed[i].contiguous() if i in computed else torch.empty_like(like) for i in range(len(passes))]
        for estimate, owner in zip(estimates, owners, strict=True):
            dist.broadcast(estimate, owner, group=self.group)
        return estimates
