"""The optimizer's state of a run of another number of processes, divided anew.

ZeRO 1 and 2 divide one flat tensor of all weights, padded at its end. ZeRO 3 divides every weight, padded at its end,
and each process holds its parts one after another, in one or more flat tensors.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import CheckpointError
from common.ranks import rank, world_size


@dataclass(frozen=True)
class Division:
    """The elements of a stretch of each process's flat tensor: in the run that was saved, and in this one."""

    before: int
    now: int


def repartitioned(deepspeed_engine, own: Mapping, weights: Sequence[Tensor], parts: Sequence[Mapping]) -> Mapping:
    """Return this process's part of the optimizer's state, as `optimizer_state` returns it.

    `own` and `weights` are the state dict and the weights of this process's optimizer, which has taken no step. `parts`
    are the states of all processes of the run that was saved. Raises CheckpointError if they do not fit together.
    """
    shapes = [weight.shape for weight in weights]
    if all([saved.shape for saved in part["weights"]] == shapes for part in parts):
        return parts[0]  # nothing is divided
    divisions = _divisions(deepspeed_engine, weights, parts)
    sizes = [weight.numel() for weight in weights]

    def divided(columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return list(_own_part([torch.cat(list(column)) for column in columns], divisions).split(sizes))

    saved = [[part["optimizer"]["state"][key] for key in sorted(part["optimizer"]["state"])] for part in parts]
    state: dict[int, dict] = {number: {} for number in range(len(weights))}
    for name, example in saved[0][0].items() if saved[0] else ():
        values = [example] * len(weights) if example.ndim == 0 else divided(
            [[entry[name] for entry in entries] for entries in saved])
        for number, value in enumerate(values):
            state[number][name] = value
    groups = [{**saved, "params": own["params"]} for own, saved in zip(
        own["param_groups"], parts[0]["optimizer"]["param_groups"], strict=True)]
    return {**parts[0], "optimizer": {"state": state, "param_groups": groups},
            "weights": divided([part["weights"] for part in parts])}


def _divisions(deepspeed_engine, weights: Sequence[Tensor], parts: Sequence[Mapping]) -> list[Division]:
    wrapper = deepspeed_engine.optimizer
    before = sum(weight.numel() for weight in parts[0]["weights"])
    if hasattr(wrapper, "fp32_partitioned_groups_flat"):
        found = [Division(-(-parameter.ds_numel // len(parts)), parameter.ds_tensor.numel())
                 for group in wrapper.fp16_groups for parameter in group]
    else:
        found = [Division(before, weights[0].numel())]
    if sum(division.before for division in found) != before or getattr(wrapper, "round_robin_gradients", False):
        raise CheckpointError(f"the saved optimizer state of {len(parts)} process(es) cannot be divided among "
                              f"{world_size()}; resume with as many processes as before")
    return found


def _own_part(parts: Sequence[Tensor], divisions: Sequence[Division]) -> Tensor:
    """Return this process's flat tensor, made of those of all processes before."""
    found, start = [], 0
    for division in divisions:
        whole = torch.cat([part[start:start + division.before] for part in parts])
        start += division.before
        total = division.now * world_size()  # only padding is added or cut off
        whole = torch.nn.functional.pad(whole, (0, total - len(whole)))
        found.append(whole[rank() * division.now:(rank() + 1) * division.now])
    return torch.cat(found)
