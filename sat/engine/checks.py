"""Checks that the parts of a model fit each other and the device, before any weights are built or read."""
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature

import torch
from omegaconf import DictConfig

from common.compression import FRAME_CHANNELS
from common.errors import ConfigError
from common.patches import parse_patch_size
from common.typed import shown
from common.unread import warn_unread
from configuration.model import MAX, UNREAD, ModelConfig
from configuration.targets import check_config, get_obj_from_str, instantiate_from_config
from configuration.yaml_files import require
from engine.first_stage import first_stage_weights
from engine.t5_files import check_t5_folder, t5_width
from engine.text_encoder import t5_configs, t5_folder
from engine.weak_network import check_guidance
from network.attention_kernels import check_kernel, heads_of
from network.compilation import has_graphs
from network.step_cache import StepCache
from sgm.sampling import check_compatible
from sgm.windows import TimeWindows


def check_model(config) -> ModelConfig:
    """Read a `model` section and check all of it that can be checked without building the model.

    Raises ConfigError or CheckpointError for wrong keys, targets, parameter names, and files that parts will read.
    """
    model = check_text_encoder(config)
    first_stage_weights(model.first_stage_config)
    return model


def check_text_encoder(config) -> ModelConfig:
    """Read a `model` section and check what can be checked without the weights of transformer and autoencoder.

    Raises as `check_model` does.
    """
    model = typed_model(config)
    for embedder in t5_configs(model):
        check_t5_folder(**t5_folder(embedder))
    check_fit(model)
    return model


def typed_model(config) -> ModelConfig:
    """Read a `model` section, and check all targets below it and their parameters; warn of keys that nothing reads.

    Whole numbers that are written as 3.0 become 3 in `config` too. Raises ConfigError for the first mistake.
    """
    model = ModelConfig.read(config)
    if model.network_wrapper is not None:
        get_obj_from_str(model.network_wrapper, "model.network_wrapper")
    parts = check_config({k: v for k, v in vars(model).items() if k.endswith("_config")}, "model")
    if not (parts["conditioner_config"].get("params") or {}).get("emb_models"):
        raise ConfigError("model.conditioner_config.params.emb_models is empty; it must have one or more embedders")
    if isinstance(config, DictConfig):
        config.update({key: part for key, part in parts.items() if part is not None})
    warn_unread(vars(model), UNREAD, "model")
    model = replace(model, **parts)
    _check_labels(model)
    return model


def _check_labels(model: ModelConfig) -> None:
    """Raise ConfigError if the network needs labels and the conditioner has nothing but text encoders."""
    labels = (model.network_config.get("params") or {}).get("num_classes")
    embedders = (model.conditioner_config.get("params") or {}).get("emb_models") or []
    if labels is not None and len(t5_configs(model)) == len(embedders):
        raise ConfigError(f"model.network_config.params.num_classes is {labels}: the network then needs labels, which "
                          "no part of conditioner_config gives; leave it out")


def check_fit(config: "ModelConfig") -> None:
    """Raise ConfigError, naming the keys, if two parts disagree; also raises as `weak_network.check_guidance` does."""
    check_structure(config)
    modules = config.network_config["params"]["modules"]
    patches = modules["patch_embed_config"].get("params") or {}
    for embedder in t5_configs(config):
        _check_equal("text tokens", "pos_embed_config's text_length", _text_rows(modules["pos_embed_config"]),
                     "the text encoder's max_length", embedder.get("max_length"))
        _check_equal("width of text", "patch_embed_config's text_hidden_size", patches.get("text_hidden_size"),
                     "the text encoder's d_model", t5_width(check_t5_folder(**t5_folder(embedder))))
    if config.sampler_config is not None:
        check_guidance(instantiate_from_config(config.sampler_config).guider, config.network_config)


def _text_rows(positions: Mapping) -> int | None:
    """Return the text tokens that the positions are made for; None for a class that is not told."""
    takes = signature(get_obj_from_str(positions["target"])).parameters
    default = takes["text_length"].default if "text_length" in takes else None
    found = (positions.get("params") or {}).get("text_length", default)
    return found if isinstance(found, int) else None


def check_structure(config: "ModelConfig") -> None:
    """Raise ConfigError, naming the keys, if two parts disagree in what no file has to be read for."""
    network = require(config.network_config.get("params"), "model.network_config.params", "in_channels",
                      "out_channels", "patch_size", "num_layers", "modules")
    _check_joined(config, network["in_channels"], network["out_channels"])
    require(network["modules"], "modules", "pos_embed_config", "patch_embed_config")
    if config.step_cache_config is not None:
        _check_step_cache(instantiate_from_config(config.step_cache_config), network["num_layers"])
    if config.latent_input and network["out_channels"] == FRAME_CHANNELS:
        raise ConfigError("model.latent_input (args.latent_cache) does not work with latents of 3 channels, which "
                          "cannot be told from frames; train without a cache")
    _check_windows(config, parse_patch_size(network["patch_size"])[0])
    _check_compiled(config)
    denoiser = instantiate_from_config(config.denoiser_config)
    denoiser.check_noise()
    if config.sampler_config is not None:
        sampler = instantiate_from_config(config.sampler_config)
        check_compatible(sampler, denoiser)
        sampler.guider.check_network(network)
        check_zeroed(config, sampler.guider)


def _check_step_cache(cache: StepCache, layers: int) -> None:
    if layers < cache.least_layers:
        raise ConfigError(f"model.step_cache_config: {type(cache).__name__} always runs the first layer, and the "
                          f"network has {layers}; leave it out")


def _check_windows(config: "ModelConfig", patch: int) -> None:
    """Raise ConfigError for time windows that are not possible, or do not go with another part."""
    if config.time_windows is None and config.windows_below is None:
        return
    if config.time_windows is not None:
        TimeWindows(config.time_windows[0], config.time_windows[1], patch)
    if config.step_cache_config is not None or config.noised_image_input:
        key = "windows_below" if config.time_windows is None else "time_windows"
        other = "model.step_cache_config" if config.step_cache_config is not None else "noised_image_input"
        raise ConfigError(f"model.{key} does not work with {other}: a window would get what belongs to another; leave "
                          "one out")


def check_zeroed(config: "ModelConfig", guider) -> None:
    """Raise ConfigError for a branch without control clip or image of a model that always had one in training."""
    key = "control_dropout" if config.control_input else "noised_image_dropout"
    if any(one.zeroed for one in guider.passes) and not getattr(config, key):
        raise ConfigError(f"guider_config: {type(guider).__name__} evaluates the network without what is joined on the "
                          f"channels, and model.{key} says that training never did; set it to the share that training "
                          "left out, or use VanillaCFG")


def _check_joined(config: "ModelConfig", in_channels: int, out_channels: int) -> None:
    """Raise ConfigError if the network does not take the channels that are joined to the latent."""
    if config.noised_image_input and config.control_input:
        raise ConfigError("model.noised_image_input and model.control_input are both true; the channels beside the "
                          "latent hold one of the two: set one to false")
    _check_image_keys(config)
    if config.control_dropout and not config.control_input:
        raise ConfigError(f"model.control_dropout is {config.control_dropout}, but the model takes no control clips; "
                          "leave it out, or set model.control_input to true")
    key = "control_input" if config.control_input else "noised_image_input"
    joined = 2 if config.noised_image_input or config.control_input else 1
    if in_channels != joined * out_channels:
        raise ConfigError(f"model.network_config.params.in_channels is {in_channels}; with "
                          f"{key} {str(joined == 2).lower()} it must be {joined} x out_channels = "
                          f"{joined * out_channels}")


def _check_image_keys(config: "ModelConfig") -> None:
    """Raise ConfigError for keys of the image that a model without image input is not given."""
    keys = ("noised_image_dropout", "noised_image_all_concat", "image_latent_scale")
    given = [key for key in keys if getattr(config, key)]
    if given and not config.noised_image_input:
        raise ConfigError(f"model.{given[0]} is {shown(getattr(config, given[0]))}, but the model takes no image; "
                          "leave it out, or set model.noised_image_input to true")


def _check_compiled(config: "ModelConfig") -> None:
    """Raise ConfigError for ways of compiling that do not go together."""
    if config.compile_first_stage and (config.first_stage_config.get("params") or {}).get("cp_size", 1) > 1:
        raise ConfigError("model.compile_first_stage does not work with first_stage_config.params.cp_size above 1: "
                          "processes exchange tensors between layers then; leave one out")
    if config.compile_dynamic and not config.compile_model:
        raise ConfigError("model.compile_dynamic has no effect without model.compile_model; set that to true or "
                          "regional, or leave compile_dynamic out")
    if config.compile_model != MAX:
        return
    if config.compile_dynamic:
        raise ConfigError(f"model.compile_model: {MAX} records graphs of fixed sizes, so it does not work with "
                          "compile_dynamic; use true or regional, or leave compile_dynamic out")
    if config.step_cache_config is not None:
        raise ConfigError(f"model.compile_model: {MAX} replays all layers as one graph, so it does not work with "
                          "step_cache_config, which leaves layers out; use true or regional, or leave the other out")


def check_device(config: "ModelConfig", device: torch.device, dtype: torch.dtype) -> None:
    """Raise ConfigError if the device lacks the attention kernel, graphs, or (a CPU) torch.compile's C++ compiler."""
    if config.attention_kernel is not None:
        check_kernel(config.attention_kernel, heads_of(config.network_config)[1], dtype, device)
    if config.compile_model == MAX and not has_graphs(device):
        raise ConfigError(f"model.compile_model: {MAX} replays kernels as a graph, which {device.type} does not have; "
                          "use true or regional")
    compiler = os.environ.get("CXX", "g++")
    for key in ("compile_model", "compile_first_stage"):
        if getattr(config, key) and device.type == "cpu" and shutil.which(compiler) is None:
            raise ConfigError(f"model.{key}: torch.compile on a CPU needs the C++ compiler {compiler}, not found; "
                              "install it, name another in CXX, or leave the key out")


def _check_equal(what: str, one: str, one_value: int | None, other: str, other_value: int | None) -> None:
    if None not in (one_value, other_value) and one_value != other_value:
        raise ConfigError(f"{what}: {one} is {one_value}, but {other} is {other_value}; make them equal")
