"""The keys of section `args` that are accepted and never read, by any command or by one."""
from collections.abc import Mapping
from dataclasses import fields

from common.unread import Unread, warn_unread
from configuration.settings import (
    KEYS,
    Arguments,
    AutoencoderSettings,
    MemorySettings,
    SamplingSettings,
    TrainingSettings,
)

SETTINGS = {
    "mode": Unread("the command decides: sample_video.py or train_video.py", ("inference", "pretrain", "finetune")),
    "force_inference": Unread("inference is never refused", (True,)),
}

_SAMPLING = {key.name for group in (SamplingSettings, MemorySettings) for key in fields(group)}
_TRAINING = {key.name for key in fields(TrainingSettings)}
_OF_DECODING = {"input_type", "input_file", "output_dir", "latent_channels", "plan", "resume", "device", "fp16", "bf16",
                *(key.name for key in fields(AutoencoderSettings))}
_OF_VAE = {"device", "plan", "seed", "load", "eval_interval", "experiment_name", "log_interval", "resume", "save",
           "save_interval", "split", "train_data", "valid_data", "wandb", "wandb_project_name"}
# What a command does not read, though a file for several commands may have it.
OF_COMMANDS: Mapping[str, set[str]] = {
    "sample_video.py": _TRAINING - _SAMPLING,
    "decoding latents": KEYS.keys() - _OF_DECODING - _TRAINING,
    "train_video.py": _SAMPLING - _TRAINING - {"latent_channels"},
    "train_vae.py": KEYS.keys() - _OF_VAE - {"fp16", "bf16"},
}


def warn_typed(args: Arguments, command: str) -> None:
    """Log a warning for each key of `args` that the command line gave and that this command does not read."""
    unread = {key: Unread(f"{command} does not read it") for key in args.typed if key in OF_COMMANDS[command]}
    warn_unread(args.composed["args"], unread, "args")


def warn_precision(args: Arguments) -> None:
    """Log a warning if `args` asks for a precision in which section `deepspeed` does not train."""
    for key in ("fp16", "bf16"):
        enabled = (args.deepspeed_config.get(key) or {}).get("enabled")
        warn_unread(vars(args.run), {key: Unread(f"training takes its precision from deepspeed.{key}.enabled; set that",
                                                 (False, enabled))}, "args")
