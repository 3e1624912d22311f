"""Section `deepspeed`: its keys that this training honours, and those that it refuses because they change nothing."""
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ValidationError

from common.errors import ConfigError
from common.kinds import AboveZero, BelowOne, NotNegative, Positive
from common.suggestions import nearest
from common.typed import Fields, checked, shown, typed
from common.unread import Unread, warn_unread
from configuration.yaml_files import plain
from training.eight_bit import check_torchao


@dataclass
class OptimizerParams:
    """The keys of `deepspeed.optimizer.params`."""

    lr: NotNegative
    betas: Annotated[Sequence[BelowOne], MinLen(2), MaxLen(2)] = (0.9, 0.999)
    eps: AboveZero = 1e-8  # with 0, a gradient of 0 is divided by 0
    weight_decay: NotNegative = 0.01


@dataclass
class Optimizer:
    """The keys of `deepspeed.optimizer`."""

    params: Annotated[Mapping, Fields(OptimizerParams)]
    type: Literal["AdamW", "Adam", "sat.ops.FusedEmaAdam", "Muon", "AdamW8bit"] = "AdamW"


@dataclass
class Section:
    """The keys of section `deepspeed` that this training honours; None leaves a choice to DeepSpeed.

    DeepSpeed's own classes hold the keys of `zero_optimization`, `fp16` and `bf16`.
    """

    train_batch_size: Positive | None = None
    train_micro_batch_size_per_gpu: Positive | None = None
    gradient_accumulation_steps: Positive | None = None
    gradient_clipping: NotNegative | None = None
    optimizer: Annotated[Mapping, Fields(Optimizer)] | None = None
    zero_optimization: Mapping | None = None
    fp16: Mapping | None = None
    bf16: Mapping | None = None
    communication_data_type: Literal["fp16", "bf16", "bfp16", "fp32"] | None = None
    prescale_gradients: bool | None = None
    gradient_predivide_factor: AboveZero | None = None
    data_types: Mapping | None = None


HONOURED = tuple(field.name for field in fields(Section))
UNREAD = {
    "steps_per_print": Unread("args.log_interval sets the steps between log lines", (50,)),
    "wall_clock_breakdown": Unread("the log holds the seconds per step", (False,)),
    "zero_allow_untested_optimizer": Unread("every optimizer that is accepted works with ZeRO", (True,)),
    "zero_force_ds_cpu_optimizer": Unread("an optimizer on the CPU is torch's", (False,)),
    **{key: Unread(f"DeepSpeed reads it as deepspeed.fp16.{key}", values) for key, values in {
        "loss_scale": (0,), "loss_scale_window": (400,), "hysteresis": (2,), "min_loss_scale": (1,)}.items()},
}
PRECISION = "set deepspeed.bf16 or deepspeed.fp16"
ORDER = "the order of the clips follows args.seed"
# Sections that DeepSpeed knows, but that this training does not use; they may be there if they are switched off.
REFUSED = {
    "scheduler": "the learning rate follows args.warmup_iters, args.lr_decay and args.final_lr_share; set those",
    "activation_checkpointing": "set args.checkpoint_activations", "amp": PRECISION, "torch_autocast": PRECISION,
    "wandb": "set args.wandb", "comet": "set args.wandb", "csv_monitor": "log.jsonl below args.save is always written",
    "tensorboard": "tensorboard/ below args.save is always written", "data_efficiency": ORDER,
    "curriculum_learning": ORDER, "memory_breakdown": "", "dump_state": "", "flops_profiler": "", "comms_logger": "",
    "compression_training": "", "sparse_attention": "", "sparse_gradients": "", "progressive_layer_drop": "",
    "eigenvalue": "", "quantize_training": "", "elasticity": "", "autotuning": "", "hybrid_engine": "", "pipeline": "",
    "checkpoint": "", "nebula": "", "aio": "", "compile": "", "tensor_parallel": "", "sequence_parallel_size": "",
    "gradient_allreduce_op": "", "disable_allgather": "", "use_data_before_expert_parallelism": "",
}
OFFLOADS = ("cpu", "none")
Power = Annotated[int, Ge(0), Le(127)]  # of two; float32 ends there


def check_deepspeed(config: Mapping, processes: int) -> dict:
    """Return the section with its values checked; whole numbers are whole also where they are written as 3.0.

    Raises ConfigError for wrong values, and for what would change nothing: unknown keys, sections that are not used.
    """
    _check_installed()
    config = plain(config)
    for key, value in config.items():
        if key in REFUSED and not _is_off(value):
            raise ConfigError(f"deepspeed.{key} has no effect on this training; "
                              f"{REFUSED[key] or 'leave it out'}")
        if key not in (*HONOURED, *UNREAD, *REFUSED):
            raise ConfigError(f"deepspeed.{key}: unknown key{nearest(key, (*HONOURED, *UNREAD, *REFUSED))}")
    warn_unread(config, UNREAD, "deepspeed")
    section = _typed(config)
    for key in ("zero_optimization", "fp16", "bf16"):
        _check_part(key, config.get(key) or {})
    _check_zero(config.get("zero_optimization") or {})
    _check_batch(config, processes)
    return section


def _check_installed() -> None:
    """Raise ConfigError if DeepSpeed is missing, as where only what sampling needs is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("training needs DeepSpeed, which is not installed: pip install deepspeed, in the "
                          "version that requirements.txt names")


def check_optimizer_alone(config: Mapping) -> None:
    """Raise ConfigError for a key that the autoencoder's training does not have: all but `optimizer` and `bf16`."""
    known = ["optimizer", "bf16"]
    for key, value in config.items():
        if key not in known and not _is_off(value):
            raise ConfigError(f"deepspeed.{key}: the autoencoder's training reads deepspeed.optimizer and "
                              f"deepspeed.bf16 alone; leave it out{nearest(key, known)}")
    given = _typed(plain(config)).get("bf16") or {}
    for key, value in given.items():
        if key != "enabled" or not isinstance(value, bool):
            raise ConfigError(f"deepspeed.bf16.{key}: the autoencoder's training has deepspeed.bf16.enabled alone, "
                              "true or false")


def _typed(config: Mapping) -> dict:
    if config.get("optimizer") is None:
        raise ConfigError("deepspeed.optimizer is missing; give it params with lr, the learning rate")
    section = typed(Section, config, "deepspeed")
    if section["optimizer"].get("type") == "AdamW8bit":
        check_torchao()
    return section


def _check_part(key: str, given: Mapping) -> None:
    """Raise ConfigError for a key or value that DeepSpeed does not know in this part of its section."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    model: Any = {"zero_optimization": DeepSpeedZeroConfig, "fp16": DeepSpeedFP16Config, "bf16": DeepSpeedBF16Config}[
        key]
    checked(Literal[0, 1, 2, 3], given.get("stage", 0), f"deepspeed.{key}.stage")
    checked(bool, given.get("enabled", False), f"deepspeed.{key}.enabled")
    checked(Power, given.get("initial_scale_power", 16), f"deepspeed.{key}.initial_scale_power")
    known = {name: field for plain, field in model.model_fields.items() for name in (plain, field.alias) if name}
    for name, value in given.items():
        where = f"deepspeed.{key}.{name}"
        if name not in known:
            raise ConfigError(f"{where}: unknown key{nearest(name, known)}")
        try:
            model(**{name: value})
        except (ValidationError, ValueError, TypeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ConfigError(f"{where} is {shown(value)}: {' '.join(reason.split())[:200]}") from error


def _check_zero(zero: Mapping) -> None:
    stage = zero.get("stage", 0)
    for key in ("stage3_param_persistence_threshold", "param_persistence_threshold"):
        if key in zero:
            raise ConfigError(f"deepspeed.zero_optimization.{key} has no effect: every weight is divided; leave it out")
    for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
        name = f"deepspeed.zero_optimization.{key}"
        device = "cpu" if zero.get(key.replace("offload_optimizer", "cpu_offload")) is True else (
            zero.get(key) or {}).get("device") or "none"
        if device not in OFFLOADS:
            raise ConfigError(f"{name}.device is {device}; it can be {' or '.join(OFFLOADS)}")
        if device != "none" and stage < least:
            raise ConfigError(f"{name} has no effect at stage {stage}; set deepspeed.zero_optimization.stage to "
                              f"{least}{' or more' if least < 3 else ''}")


def _check_batch(config: Mapping, processes: int) -> None:
    """Raise ConfigError if the sizes of a batch contradict each other."""
    total, micro = config.get("train_batch_size"), config.get("train_micro_batch_size_per_gpu")
    parts = config.get("gradient_accumulation_steps")
    if total is None:
        if micro is None:
            raise ConfigError("deepspeed.train_micro_batch_size_per_gpu is missing; give the clips of a forward pass")
        return
    given = (micro or 1) * (parts or 1) * processes
    if total % given or (micro and parts and total != given):
        raise ConfigError(f"deepspeed.train_batch_size is {total}, but train_micro_batch_size_per_gpu ({micro}) x "
                          f"gradient_accumulation_steps ({parts}) x processes ({processes}) is another number; leave "
                          "it out")


def _is_off(value) -> bool:
    """Return True for a setting that is switched off: false, nothing, or a section of which that is true."""
    if isinstance(value, Mapping):
        return "enabled" in value and not value["enabled"] or all(map(_is_off, value.values()))
    return not value
