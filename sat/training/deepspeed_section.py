"""Section `deepspeed`: its keys that this training honours, and those that it refuses because they change nothing."""
from collections.abc import Mapping

from common.errors import ConfigError
from common.suggestions import nearest
from common.unread import Unread, warn_unread

HONOURED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
            "optimizer", "zero_optimization", "fp16", "bf16", "communication_data_type", "prescale_gradients",
            "gradient_predivide_factor", "data_types")
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


def check_deepspeed(config: Mapping, processes: int) -> None:
    """Raise ConfigError for what would change nothing: unknown keys, sections that are not used, parts of ZeRO."""
    for key, value in config.items():
        if key in REFUSED and not _is_off(value):
            raise ConfigError(f"deepspeed.{key} has no effect on this training; "
                              f"{REFUSED[key] or 'leave it out'}")
        if key not in (*HONOURED, *UNREAD, *REFUSED):
            raise ConfigError(f"deepspeed.{key}: unknown key{nearest(key, (*HONOURED, *UNREAD, *REFUSED))}")
    warn_unread(config, UNREAD, "deepspeed")
    _check_zero(config.get("zero_optimization") or {})
    _check_batch(config, processes)


def check_optimizer_alone(config: Mapping) -> None:
    """Raise ConfigError for a key besides `optimizer`, the only one that the autoencoder's training has."""
    for key, value in config.items():
        if key != "optimizer" and not _is_off(value):
            raise ConfigError(f"deepspeed.{key}: the autoencoder's training reads deepspeed.optimizer alone; leave it "
                              f"out{nearest(key, ['optimizer'])}")


def _check_zero(zero: Mapping) -> None:
    stage = zero.get("stage", 0)
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
