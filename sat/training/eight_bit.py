"""AdamW with its moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861), in the quantization of torchao."""
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from common.errors import ConfigError

BLOCK = 256  # neighbouring elements that share a scale
# Elements that are updated at a time, so that what computing takes does not grow with the weights: on a CPU few enough
# for its caches, elsewhere enough to keep the device busy.
SLICE_ON_CPU, SLICE = BLOCK << 10, BLOCK << 14
SMALLEST = 4096  # weights of fewer elements keep their moments in float32, as in the paper
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # True: signed
CODES, SCALE = ".codes", ".scale"


def check_torchao() -> None:
    """Raise ConfigError if torchao, an optional package, is missing."""
    try:
        import torchao.optim  # noqa: F401
    except ImportError as error:
        raise ConfigError("deepspeed.optimizer.type AdamW8bit needs torchao, which is not installed: pip install "
                          "torchao, or take AdamW") from error


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose two moments take 2 bytes an element in place of 8.

    torchao's own class quantizes no weight whose size is not a multiple of 256, which ZeRO's flat tensors are not, and
    without a compiler takes several copies of each weight. Here moments are padded, and updated a slice at a time.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 1e-2):
        check_torchao()
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: Mapping) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state.update({name: _zeros(parameter, signed) for name, signed in MOMENTS.items()})
        state["step"] += 1
        values, gradients = parameter.detach().reshape(-1), gradient.reshape(-1)
        size = SLICE_ON_CPU if values.device.type == "cpu" else SLICE
        for start in range(0, len(values), size):
            part = slice(start, start + size)
            _update(values[part], gradients[part], state["step"], [state[name][_padded(part, state[name])]
                                                                   for name in MOMENTS], group)
        if values.data_ptr() != parameter.data_ptr():  # the weight's elements are in another order
            parameter.copy_(values.view_as(parameter))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain tensors: a moment's codes and their scales, or its float32 values."""
        found = super().state_dict()
        return found | {"state": {key: _plain(entry) for key, entry in found["state"].items()}}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Load what `state_dict` returned, or the same with moments as floats, which are then quantized."""
        weights = [p for group in self.param_groups for p in group["params"]]
        state = {key: _quantized(entry, weights[key]) for key, entry in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})


def with_floats(state: Mapping) -> Mapping:
    """Return a saved `optimizer_state` with moments as floats of the weights' sizes, if it has any in 8 bits."""
    entries = state["optimizer"]["state"]
    if not any(name.endswith(CODES) for entry in entries.values() for name in entry):
        return state
    floats = {key: {name: value.dequantize()[:state["weights"][key].numel()] if _is_quantized(value) else value
                    for name, value in _quantized(entry, state["weights"][key]).items()}
              for key, entry in entries.items()}
    return {**state, "optimizer": {**state["optimizer"], "state": floats}}


def _update(values: Tensor, gradients: Tensor, step: Tensor, moments: list[Tensor], group: Mapping) -> None:
    from torchao.optim.adam import single_param_adam
    missing = moments[0].numel() - values.numel()
    updated = pad(values, (0, missing)) if missing else values
    single_param_adam(updated, pad(gradients, (0, missing)) if missing else gradients, step.to(values.device),
                      *moments, None, group["lr"], *group["betas"], group["weight_decay"], group["eps"],
                      IS_ADAMW=True, BF16_STOCHASTIC_ROUND=False)
    if missing:
        values.copy_(updated[:values.numel()])


def _zeros(parameter: Tensor, signed: bool) -> Tensor:
    """Return a zero moment of a weight: flat, and in 8 bits if the weight is large enough."""
    from torchao.optim.subclass_8bit import OptimState8bit
    count = parameter.numel()
    if count < SMALLEST:
        return torch.zeros(count, device=parameter.device)
    return OptimState8bit.zeros((-(-count // BLOCK) * BLOCK,), signed, BLOCK, parameter.device, torch.float32)


def _padded(part: slice, moment: Tensor) -> slice:
    return slice(part.start, min(part.stop, moment.numel()))


def _plain(entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, value in entry.items():
        tensors: Any = value
        plain |= {name + CODES: tensors.codes, name + SCALE: tensors.scale} if _is_quantized(value) else {name: value}
    return plain


def _quantized(entry: Mapping[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """Return an entry of a state dict with its moments as the optimizer keeps them."""
    found: dict[str, Any] = {"step": entry["step"].clone()}
    for name, signed in MOMENTS.items():
        found[name] = _zeros(parameter, signed)
        if _is_quantized(found[name]) and name + CODES in entry:
            found[name].codes.copy_(entry[name + CODES])
            found[name].scale.copy_(entry[name + SCALE])
        else:
            value = entry[name].to(parameter.device)
            found[name].copy_(pad(value, (0, found[name].numel() - value.numel())))
    return found


def _is_quantized(value: Tensor) -> bool:
    return hasattr(value, "codes")
