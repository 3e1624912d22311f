"""The check that whatever a run saves is finite, so that a run that diverged never takes the place of a good one."""
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from training.run_state import RunState


def fault_of(state: RunState, stored: torch.dtype | None = None) -> str | None:
    """Describe the first tensor of a state that is not finite; None if all are.

    `stored` is the dtype in which the checkpoint keeps the averaged weights, which may hold fewer values.
    """
    for kind, tensors in (("weight", state.network), ("averaged weight", state.average),
                          ("state of the optimizer", state.optimizer),
                          ("discriminator's", state.discriminator or {})):
        for name, value in _tensors(tensors):
            if found := _fault(value, f"the {kind} {name}"):
                return found
    weights = {**state.network, **state.average} if stored is not None else {}
    return next((found for name, value in weights.items() if (found := _overflow(value, stored, name))), None)


def _fault(value: Tensor, what: str) -> str | None:
    if not value.is_floating_point() or not value.numel():
        return None
    low, high = torch.aminmax(value.detach())  # takes no memory; both are NaN if any element is
    if torch.isfinite(low) and torch.isfinite(high):
        return None
    return f"{what} is {'nan' if torch.isnan(low) else 'infinite'}"


def _overflow(value: Tensor, stored: torch.dtype | None, name: str) -> str | None:
    if stored is None or not value.is_floating_point() or not value.numel():
        return None
    most = max(map(abs, (extreme.item() for extreme in torch.aminmax(value.detach()))))
    limit = torch.finfo(stored).max
    if most <= limit:
        return None
    return f"the averaged weight {name} has the value {most:.3g}, and {str(stored).split('.')[1]} ends at {limit:g}"


def _tensors(value, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested mappings and lists with its name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
