"""Checks of the settings that divide a model among processes."""
from omegaconf import OmegaConf

from common.errors import ConfigError
from configuration.settings import Arguments

SIZE = "model_parallel_size"
NETWORK = "model.network_config.params"


def settle_size(args: Arguments) -> None:
    """Makes one number of the two places that may ask for shared transformers: `args.model_parallel_size`.

    The network's own becomes 1, with which it is built whole before the processes are started, for its tensors to be
    compared with a checkpoint's, and divided among them afterwards. Raises ConfigError where they disagree.
    """
    key = f"{NETWORK}.transformer_args.{SIZE}"
    inner = OmegaConf.select(args.config, key, default=1)
    if not isinstance(inner, int) or inner < 1:
        raise ConfigError(f"{key} is {inner!r}; it must be a whole number, 1 or more")
    size = max(args.model_parallel_size, inner)
    if min(args.model_parallel_size, inner) not in (1, size):
        raise ConfigError(f"args.{SIZE} is {args.model_parallel_size}, but {key} is {inner}; give it once")
    args.model_parallel_size = size
    OmegaConf.update(args.config, f"args.{SIZE}", size, force_add=True)
    if inner > 1:
        OmegaConf.update(args.config, key, 1)


def check_shared(args: Arguments) -> None:
    """Raises ConfigError where the transformer cannot be shared by `args.model_parallel_size` processes."""
    size, heads = args.model_parallel_size, OmegaConf.select(args.config, f"{NETWORK}.num_attention_heads")
    if isinstance(heads, int) and heads % size:
        raise ConfigError(f"args.{SIZE} is {size}, but the transformer's {heads} attention heads do not divide by it")
    if size > 1 and args.load_lora is not None:
        raise ConfigError(f"args.load_lora does not work with args.{SIZE} above 1; merge it into the weights with "
                          "tools/convert_lora.py, or use one process")


HEADS = "model.network_config.params.num_attention_heads"


def check_sequence_parallel(args: "Arguments") -> None:
    """Raises ConfigError for what does not go with dividing tokens or passes among processes."""
    if args.model_parallel_size > 1 and args.sequence_parallel_size * args.guidance_parallel_size > 1:
        raise ConfigError("args.model_parallel_size works with neither sequence_parallel_size nor "
                          "guidance_parallel_size above 1; set it to 1")
    size, heads = args.sequence_parallel_size, OmegaConf.select(args.config, HEADS)
    if size > 1 and (args.model_config.get("step_cache_config") is not None or args.model_config.get("compile_model")):
        raise ConfigError("args.sequence_parallel_size works with neither model.step_cache_config nor "
                          "model.compile_model; leave them out")
    if isinstance(heads, int) and heads % size:
        raise ConfigError(f"args.sequence_parallel_size {size} does not divide the {heads} attention heads of the "
                          "transformer; take a number that does")
