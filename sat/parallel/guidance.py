"""Branches of a guided step divided among processes; every process gets all denoised estimates.

Results equal those of one process up to rounding: one branch alone has matrix products of another shape than two in one
batch.
"""
from collections.abc import Sequence
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

    def own(self, branches: Sequence[int]) -> list[int]:
        """Return the positions in `branches` of those that this process evaluates."""
        rank = dist.get_rank()
        return [i for i, owner in enumerate(self._owners(branches)) if owner == rank]

    def gather(self, branches: Sequence[int], own: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """Return one denoised estimate per branch, on every process, given this process's `own` in order.

        Every estimate has the shape of `like`.
        """
        computed, owners = dict(zip(self.own(branches), own, strict=True)), self._owners(branches)
        estimates = [computed[i].contiguous() if i in computed else torch.empty_like(like) for i in range(len(owners))]
        for estimate, owner in zip(estimates, owners, strict=True):
            dist.broadcast(estimate, owner, group=self.group)
        return estimates

    def total(self, counts: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
        """Return the sums of the counts of all processes, added on a device that they can exchange tensors of."""
        summed = torch.tensor(counts, device=device)
        dist.all_reduce(summed, group=self.group)
        return summed.tolist()

    def _owners(self, branches: Sequence[int]) -> list[int]:
        return [self.ranks[branch % len(self.ranks)] for branch in branches]
