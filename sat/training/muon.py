"""Muon (Jordan et al. 2024): momentum of a weight matrix, made orthogonal, is its step; AdamW for all other weights."""
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# The quintic of Jordan et al. (2024): steepest at zero, so that five steps bring all singular values near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
FUSED_PROJECTIONS = {"query_key_value.weight": 3, "key_value.weight": 2}
ENDS = ("conv_in.", "conv_out.")


class Muon(torch.optim.AdamW):
    """One learning rate for both: steps of matrices are scaled to the size AdamW's have (Liu et al. 2025, eq. 4).

    Matrices are the two-dimensional weights of the transformer's layers, of projections stored as one (queries, keys,
    values) each part by itself, and the autoencoder's convolutions between its first and last, the places of the kernel
    as inputs. Needs whole matrices: no ZeRO partitions.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, momentum: float = 0.95,
                 **adamw):
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in named_parameters:
            groups.setdefault(_matrices_in(name, parameter), []).append(parameter)
        super().__init__([{"params": params, "matrices": matrices} for matrices, params in sorted(groups.items())],
                         lr=lr, **adamw)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group["matrices"]:
                for parameter in group["params"]:
                    self._step_matrix(parameter, group)
        return super().step(closure)  # skips weights that have no gradient left

    def _step_matrix(self, parameter: nn.Parameter, group: dict) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            # AdamW looks for a step count in every weight's state when it is loaded.
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        direction = gradient.lerp(state["momentum"], self.momentum)  # Nesterov
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        for weight, part in zip(parameter.chunk(group["matrices"]), direction.chunk(group["matrices"]), strict=True):
            matrix = part.flatten(1)
            weight.sub_(orthogonal(matrix).view_as(weight), alpha=0.2 * max(matrix.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T of `matrix` = U S V^T, (m, n), by Newton-Schulz; singular values end between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _matrices_in(name: str, parameter: nn.Parameter) -> int:
    """How many matrices a weight holds that are stepped this way; 0: none, AdamW's."""
    if parameter.ndim == 5:
        return int(not any(end in name for end in ENDS))
    if parameter.ndim != 2 or "transformer.layers." not in name:
        return 0
    return next((parts for suffix, parts in FUSED_PROJECTIONS.items() if name.endswith(suffix)), 1)
