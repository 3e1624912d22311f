"""The DeepSpeed engine and optimizer of a run, and the optimizer's state as plain tensors."""
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from common.errors import CheckpointError, ConfigError
from dry_run.memory import free_memory
from training.deepspeed_section import HONOURED
from training.eight_bit import AdamW8bit, with_floats
from training.muon import Muon
from training.repartition import repartitioned

# Released configurations name FusedEmaAdam: AdamW with an average of the weights, which training.average keeps here.
OPTIMIZERS = {"AdamW": torch.optim.AdamW, "Adam": torch.optim.Adam, "sat.ops.FusedEmaAdam": torch.optim.AdamW}
MUON, EIGHT_BIT = "Muon", "AdamW8bit"
# Attributes of DeepSpeed's loss scaler (float16): the scale, and when it last changed.
SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class TrainingStep(nn.Module):
    """The engine's training loss as the `forward` of a module, as DeepSpeed requires."""

    def __init__(self, engine: Any):
        super().__init__()
        self.engine = engine

    def forward(self, batch: Mapping):
        return self.engine.shared_step(batch)


def check_memory(network: nn.Module, device: torch.device, bytes_each: int = 4) -> None:
    """Raise ConfigError for a network, built on any device, whose weights alone are more than `device` has free."""
    elements = sum(parameter.numel() for parameter in network.parameters())
    free = free_memory(device)
    if elements * bytes_each > free:
        raise ConfigError(f"the network has {elements / 1e9:.1f} G parameters, whose {elements * bytes_each / 1e9:.1f} "
                          f"GB are more than the {free / 1e9:.1f} GB that {device} has free; make it smaller")


def build_optimizer(config: Mapping | None, module: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer from `deepspeed.optimizer`, `{type, params}`, as `deepspeed_section` has checked them.

    Raises ConfigError if there is nothing to train.
    """
    kind = (config or {}).get("type", "AdamW")
    params = dict((config or {}).get("params") or {})
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("model.not_trainable_prefixes leaves nothing to train; remove some prefixes")
    try:
        if kind == MUON:
            return Muon(trained, **params, fused=True)
        if kind == EIGHT_BIT:
            return AdamW8bit([p for _, p in trained], **params)
        return OPTIMIZERS[kind]([p for _, p in trained], **params, fused=True)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"deepspeed.optimizer.params: {' '.join(str(error).split())}") from error


def start_deepspeed(module: nn.Module, config: Mapping):
    """Wrap `module` in a DeepSpeed engine with the configuration's section `deepspeed`; needs torch.distributed.

    Raises ConfigError if the section is not valid.
    """
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError
    from pydantic import ValidationError

    optimizer = build_optimizer(config.get("optimizer"), module)
    stage = (config.get("zero_optimization") or {}).get("stage", 0)
    if stage == 0 and (config.get("fp16") or {}).get("enabled"):
        # Without ZeRO, DeepSpeed 0.19 divides gradients by a scale but never scales the loss.
        raise ConfigError("deepspeed.fp16 needs deepspeed.zero_optimization.stage of 1 or more, because the loss "
                          "is not scaled at stage 0; set it to 1")
    if isinstance(optimizer, Muon) and stage:
        raise ConfigError("deepspeed.optimizer.type Muon needs whole matrices: set deepspeed.zero_optimization.stage "
                          "to 0")
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # a step by which DeepSpeed allocates the optimizer's state then changes no weight
    try:
        started = deepspeed.initialize(model=module, optimizer=optimizer, config=_settings(config),
                                       dist_init_required=False)[0]
    except (ValidationError, DeepSpeedConfigError, AssertionError, NotImplementedError, ValueError) as error:
        raise ConfigError(f"deepspeed: {' '.join(str(error).split())[:300]}") from error
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():  # of a step with zero gradients, by which DeepSpeed allocates it
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()
    return started


def _settings(config: Mapping) -> dict:
    settings = {key: config[key] for key in HONOURED if key in config and key != "optimizer"}
    zero = dict(settings.get("zero_optimization") or {})
    if zero.get("stage") == 3:  # keep no small weights whole: every weight is in its parts alone
        zero["stage3_param_persistence_threshold"] = 0
    # Optimizers on the CPU are torch's, whose fused AdamW is as fast there as DeepSpeed's and needs no compiler.
    own = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False, "steps_per_print": sys.maxsize}
    return settings | {"zero_optimization": zero} | own


def optimizer_state(deepspeed_engine) -> dict:
    """Return this process's part of the optimizer's state, as plain tensors.

    It has the moments, the weights that the optimizer itself updates (with ZeRO flat, possibly in a wider dtype), and
    in float16 the loss scale.
    """
    with _base(deepspeed_engine) as base:
        state = {"optimizer": base.state_dict(), "weights": [p.detach() for p in _weights(base)]}
    scale = getattr(deepspeed_engine.optimizer, "loss_scaler", None)
    if scale is not None:
        state["loss_scale"] = {key: getattr(scale, key) for key in SCALE if hasattr(scale, key)}
    return state


@torch.no_grad()
def load_optimizer_state(deepspeed_engine, state: Mapping | tuple[Mapping, ...]) -> None:
    """Restore what `optimizer_state` returned; a tuple holds what it returned on each process of another world size.

    Raises CheckpointError if it is of another ZeRO stage or another model.
    """
    try:
        _load(deepspeed_engine, state)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:  # of others' files
        raise CheckpointError("the saved state of the optimizer is not one of this run "
                              f"({' '.join(str(error).split())[:160]}); start a new run with args.load and another "
                              "args.save") from error


def _load(deepspeed_engine, state: Mapping | tuple[Mapping, ...]) -> None:
    with _base(deepspeed_engine) as base:
        own = _weights(base)
        if isinstance(state, tuple):
            state = repartitioned(deepspeed_engine, base.state_dict(), own, tuple(map(with_floats, state)))
        if [p.shape for p in own] != [p.shape for p in state["weights"]]:
            raise CheckpointError("the saved optimizer state is of another ZeRO stage; resume with that of the "
                                  "stopped run")
        base.load_state_dict(state["optimizer"])
        for parameter, saved in zip(own, state["weights"], strict=True):
            parameter.copy_(saved)
    for key, value in state.get("loss_scale", {}).items():
        setattr(deepspeed_engine.optimizer.loss_scaler, key, value)


@contextmanager
def _base(deepspeed_engine) -> Iterator[torch.optim.Optimizer]:
    """Context manager that yields the optimizer inside DeepSpeed's wrappers (ZeRO, mixed precision) with its weights.

    ZeRO 3 removes the weights from the optimizer between steps; the block puts them back.
    """
    wrapper = deepspeed_engine.optimizer
    base = getattr(wrapper, "optimizer", wrapper)
    taken_out = getattr(wrapper, "fp32_partitioned_groups_flat", ())
    for number, weights in enumerate(taken_out):
        base.param_groups[wrapper.sub_group_to_group_id[number]]["params"].append(weights)
    try:
        yield base
    finally:
        if taken_out:
            for group in base.param_groups:
                group["params"] = []


def _weights(base: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in base.param_groups for p in group["params"]]
