"""DeepSpeed around the engine's training step, and the optimizer's state as plain tensors."""
import sys
from collections.abc import Mapping

import torch
from torch import nn

from errors import CheckpointError, ConfigError
from training.muon import Muon

# Released files name SwissArmyTransformer's optimizer: AdamW, with an average of the weights that is kept here anyway.
OPTIMIZERS = {"AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam, "sat.ops.FusedEmaAdam": torch.optim.AdamW}
OPTIMIZER_PARAMS = ("lr", "betas", "eps", "weight_decay")
MUON = "Muon"


class TrainingStep(nn.Module):
    """The engine's training loss as a module's `forward`, which is what DeepSpeed wraps."""

    def __init__(self, engine: nn.Module):
        super().__init__()
        self.engine = engine

    def forward(self, batch: Mapping):
        return self.engine.shared_step(batch)


def build_optimizer(config: Mapping | None, module: nn.Module) -> torch.optim.Optimizer:
    """`config` is `{type, params}` of section `deepspeed`."""
    kind = (config or {}).get("type", "AdamW")
    params = dict((config or {}).get("params") or {})
    if kind not in OPTIMIZERS and kind != MUON:
        raise ConfigError(f"deepspeed.optimizer.type is {kind}; it can be {', '.join([*OPTIMIZERS, MUON])}")
    unknown = [key for key in params if key not in OPTIMIZER_PARAMS]
    if unknown or "lr" not in params:
        raise ConfigError(f"deepspeed.optimizer.params: {'unknown key ' + unknown[0] if unknown else 'lr is missing'}; "
                          f"give {', '.join(OPTIMIZER_PARAMS)}")
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("model.not_trainable_prefixes leaves nothing to train; take some out")
    try:
        if kind == MUON:
            return Muon(trained, **params, fused=True)
        return OPTIMIZERS[kind]([p for _, p in trained], **params, fused=True)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"deepspeed.optimizer.params: {' '.join(str(error).split())}") from error


def start_deepspeed(module: nn.Module, config: Mapping):
    """DeepSpeed's engine of `module`, with its section of the configuration; torch.distributed must run."""
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError
    from pydantic import ValidationError

    optimizer = build_optimizer(config.get("optimizer"), module)
    if isinstance(optimizer, Muon) and (config.get("zero_optimization") or {}).get("stage", 0):
        raise ConfigError("deepspeed.optimizer.type Muon needs whole matrices: set deepspeed.zero_optimization.stage to 0")
    settings = {key: value for key, value in config.items() if key != "optimizer"}
    settings |= {"zero_allow_untested_optimizer": True, "steps_per_print": sys.maxsize}
    try:
        return deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)[0]
    except (ValidationError, DeepSpeedConfigError) as error:
        raise ConfigError(f"deepspeed: {' '.join(str(error).split())[:300]}") from error


def optimizer_state(deepspeed_engine) -> dict:
    """This process's part: moments, and the weights that the optimizer itself updates (flat, or wider, with ZeRO)."""
    base = _base(deepspeed_engine)
    return {"optimizer": base.state_dict(), "weights": [p.detach() for p in _weights(base)]}


@torch.no_grad()
def load_optimizer_state(deepspeed_engine, state: Mapping) -> None:
    base = _base(deepspeed_engine)
    own = _weights(base)
    if [p.shape for p in own] != [p.shape for p in state["weights"]]:
        raise CheckpointError("the saved optimizer state is of another ZeRO stage or number of processes; resume with "
                              "those of the stopped run")
    base.load_state_dict(state["optimizer"])
    for parameter, saved in zip(own, state["weights"], strict=True):
        parameter.copy_(saved)


def _base(deepspeed_engine) -> torch.optim.Optimizer:
    """ZeRO and mixed precision wrap the optimizer that was given."""
    wrapper = deepspeed_engine.optimizer
    return getattr(wrapper, "optimizer", wrapper)


def _weights(base: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in base.param_groups for p in group["params"]]
