"""Checks of the settings that divide a model among processes."""
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import ConfigError
from configuration.settings import Arguments, RunSettings, SamplingSettings
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from network.published_teacache import PublishedTeaCache

SIZE = "model_parallel_size"
NETWORK = "model.network_config.params"
WEAK = "model.sampler_config.params.guider_config.params.network_config.params"


def merge_size_keys(args: Arguments) -> None:
    """Merge the two keys that set how many processes share a transformer into `args.model_parallel_size`.

    The network's own key becomes 1: before the processes are started the network is built whole, so that its tensors
    can be compared with a checkpoint's, and divided among them afterwards. Raises ConfigError if the keys disagree.
    """
    key = f"{NETWORK}.transformer_args.{SIZE}"
    inner = _at(args.config, key, 1)
    if not isinstance(inner, int) or inner < 1:
        raise ConfigError(f"{key} is {inner!r}; it must be a whole number, 1 or more")
    size = max(args.run.model_parallel_size, inner)
    if min(args.run.model_parallel_size, inner) not in (1, size):
        raise ConfigError(f"args.{SIZE} is {args.run.model_parallel_size}, but {key} is {inner}; set it once")
    args.run.model_parallel_size = size
    OmegaConf.update(args.config, f"args.{SIZE}", size, force_add=True)
    if inner > 1:
        OmegaConf.update(args.config, key, 1)


def _at(config: DictConfig, key: str, default: int | None = None) -> Any:
    """Return the value of a key; the default where it is missing, or stands below something that is no mapping."""
    try:
        return OmegaConf.select(config, key, default=default)
    except (OmegaConfBaseException, TypeError):
        return default


def _heads(config: DictConfig) -> Iterator[tuple[str, int]]:
    """Yield name and attention heads of the transformer, and of a guider's weaker one if it has sizes of its own."""
    for whose, network in (("transformer", NETWORK), ("guider's weaker transformer", WEAK)):
        heads = _at(config, f"{network}.num_attention_heads")
        if isinstance(heads, int):
            yield whose, heads


def check_shared(run: RunSettings, config: DictConfig) -> None:
    """Raise ConfigError if `args.model_parallel_size` processes cannot share the transformer."""
    size = run.model_parallel_size
    for whose, heads in _heads(config):
        if heads % size:
            raise ConfigError(f"args.{SIZE} is {size}, which does not divide the {whose}'s {heads} attention heads")
    if size > 1 and run.loras:
        raise ConfigError(f"args.load_lora does not work with args.{SIZE} above 1; merge it into the weights with "
                          "tools/convert_lora.py, or use one process")


def check_sequence_parallel(run: RunSettings, sampling: SamplingSettings, config: DictConfig) -> None:
    """Raise ConfigError for settings that do not work with tokens or branches divided among processes."""
    divided = sampling.sequence_parallel_size * sampling.guidance_parallel_size
    if run.model_parallel_size > 1 and divided > 1:
        raise ConfigError("args.model_parallel_size works with neither sequence_parallel_size nor "
                          "guidance_parallel_size above 1; set it to 1")
    size, model = sampling.sequence_parallel_size, config.model
    if size > 1 and model.get("compile_model"):
        raise ConfigError("args.sequence_parallel_size does not work with model.compile_model; leave it out")
    cache = model.get("step_cache_config")
    if size > 1 and cache is not None and not isinstance(instantiate_from_config(plain(cache)), PublishedTeaCache):
        raise ConfigError("args.sequence_parallel_size works with no step cache but PublishedTeaCache, whose decisions "
                          "do not depend on the tokens; set model.step_cache_config to it or leave it out")
    for whose, heads in _heads(config):
        if heads % size:
            raise ConfigError(f"args.sequence_parallel_size {size} does not divide the {heads} attention heads of the "
                              f"{whose}; take a number that does")
