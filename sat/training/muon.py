"""The Muon optimizer (Jordan et al. 2024): steps along the orthogonalized momentum of each matrix; AdamW elsewhere."""
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Quintic coefficients of Jordan et al. (2024), steep at zero so that five iterations bring singular values near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
FUSED_PROJECTIONS = {"query_key_value.weight": 3, "key_value.weight": 2}
ENDS = ("conv_in.", "conv_out.")


class Muon(torch.optim.AdamW):
    """Muon for matrices and AdamW for all other weights, with one learning rate for both.

    A matrix's step is scaled to the size that AdamW's steps have (Liu et al. 2025, eq. 4). Matrices are the
    two-dimensional weights of the transformer's layers, where queries, keys and values of a fused projection count
    separately, and the autoencoder's convolutions except the first and last, flattened to (out, in x kernel). Needs
    whole matrices, not ZeRO partitions.
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
        return super().step(closure)  # AdamW skips the matrices, whose gradient is None by now

    def _step_matrix(self, parameter: nn.Parameter, group: dict) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            # AdamW expects a step count in the state of every parameter when it loads a state dict.
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["momentum"].lerp_(gradient, 1 - self.momentum)
        direction = gradient.lerp(state["momentum"], self.momentum)  # Nesterov
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        for weight, part in zip(parameter.chunk(group["matrices"]), direction.chunk(group["matrices"]), strict=True):
            matrix = part.flatten(1)
            weight.sub_(orthogonal(matrix).view_as(weight), alpha=0.2 * max(matrix.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return approximately U V^T of `matrix` = U S V^T (m, n), by Newton-Schulz; singular values end in [0.7, 1.2]."""
    a, b, c = NEWTON_SCHULZ
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _matrices_in(name: str, parameter: nn.Parameter) -> int:
    """Return how many matrices, stacked along the first axis, a weight holds; 0 if AdamW updates it."""
    if parameter.ndim == 5:
        return int(not any(end in name for end in ENDS))
    if parameter.ndim != 2 or "transformer.layers." not in name:
        return 0
    return next((parts for suffix, parts in FUSED_PROJECTIONS.items() if name.endswith(suffix)), 1)
