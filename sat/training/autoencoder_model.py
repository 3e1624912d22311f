"""The autoencoder that a training run builds, checked before anything is read."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from common.compression import Compression
from common.errors import ConfigError
from common.kinds import NotNegative
from common.suggestions import nearest
from common.typed import typed
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config
from configuration.yaml_files import plain, require
from engine.first_stage import first_stage_weights
from training.data.memory_clips import Stage
from training.optimization import check_memory
from vae_modules.autoencoder import VideoAutoencodingEngine
from weights.checkpoint import load_module
from weights.sources import autoencoder_weights

PREFIX = "first_stage_model."  # of the autoencoder's tensors, as an engine names them


@dataclass
class OwnKeys:
    """The keys of section `model` that only this training has, beside those of an engine."""

    fresh_prefixes: Sequence[str] = ()
    latent_noise: NotNegative = 0.0


def check_model(section: Mapping, device: torch.device) -> dict:
    """Return section `model` with its values checked, as `configuration.targets.check_config` does.

    Raises ConfigError for a key that neither this training nor an engine has, for wrong values, and for an autoencoder
    that cannot be built or that the memory does not hold; CheckpointError for weights that it cannot load.
    """
    model = plain(section)
    known = [field.name for kind in (OwnKeys, ModelConfig) for field in fields(kind)]
    for key in model:
        if key not in known:
            raise ConfigError(f"model.{key}: unknown key{nearest(key, known)}")
    typed(OwnKeys, typed(ModelConfig, model, "model"), "model")
    model = check_config(model, "model")
    config = require(model.get("first_stage_config"), "model.first_stage_config", "target")
    if not issubclass(get_obj_from_str(config["target"]), VideoAutoencodingEngine):
        raise ConfigError(f"model.first_stage_config.target is {config['target']}; this training needs an autoencoder, "
                          "such as vae_modules.autoencoder.VideoAutoencodingEngine")
    with torch.device("meta"):
        params = {**(config.get("params") or {}), "ckpt_path": None}
        check_memory(instantiate_from_config({**config, "params": params}), device)
    first_stage_weights(config)
    return model


def check_stages(model: Mapping, stages: Sequence[Stage], size: Sequence[int]) -> None:
    """Raise ConfigError if the autoencoder cannot encode and decode the clips of a stage, `size` (height, width)."""
    compression = Compression.of_first_stage(model["first_stage_config"])
    step = 2 * compression.time  # the decoder takes latent frames in pairs after the first
    for number, stage in enumerate(stages):
        if (stage.frames - 1) % step:
            raise ConfigError(f"data.stages[{number}].frames is {stage.frames}; this autoencoder takes {step}k + 1: "
                              f"1, {step + 1}, {2 * step + 1} and so on")
    if not compression.has_size(*size):
        raise ConfigError(f"data.params.video_size is {list(size)}; this autoencoder takes multiples of "
                          f"{compression.space}")


def build_model(args: Arguments) -> VideoAutoencodingEngine:
    """Build the autoencoder with initial weights: those of `args.load`, or random ones from the seed."""
    torch.manual_seed(args.run.seed)
    model = instantiate_from_config(args.model_config.first_stage_config).to(args.run.device)
    if args.run.load:
        fresh_prefixes = args.model_config.get("fresh_prefixes", ())
        ignored = (args.model_config.first_stage_config.get("params") or {}).get("ignore_keys", ())
        load_module(model, _initial_weights(model, args.run.load, fresh_prefixes, ignored), args.run.load)
    frozen = args.model_config.get("not_trainable_prefixes", ())
    for key in ("not_trainable_prefixes", "fresh_prefixes"):
        _check_prefixes(model, key, args.model_config.get(key, ()))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _named(name, frozen))
    return model


def _check_prefixes(model: VideoAutoencodingEngine, key: str, prefixes: Sequence[str]) -> None:
    """Raise ConfigError for a prefix that is the beginning of no parameter's name."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_named(name, (prefix,)) for name in names):
            raise ConfigError(f"model.{key}: no parameter's name begins with {prefix!r}; write {PREFIX}encoder, or a "
                              "longer beginning")


def _initial_weights(model: VideoAutoencodingEngine, path: str, fresh_prefixes: Sequence[str],
                     ignored: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, with the model's own weights for the parts that are to begin anew.

    Tensors of the checkpoint whose name starts with one of `ignored` are left out.
    """
    loaded = autoencoder_weights(path, model.state_dict(), len(model.decoder.up), ignored).read()
    fresh = {name: value for name, value in model.state_dict().items() if _named(name, fresh_prefixes)}
    return {name: value for name, value in loaded.items() if not _named(name, fresh_prefixes)} | fresh


def _named(name: str, prefixes: Sequence[str]) -> bool:
    """Return True if a tensor's name starts with one of the prefixes, which begin with `first_stage_model.`."""
    return f"{PREFIX}{name}".startswith(tuple(prefixes))
