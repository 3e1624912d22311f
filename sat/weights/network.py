"""Loading of the transformer's weights, after comparing them with its configuration and with the presets."""
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from yaml import YAMLError

from common.errors import CheckpointError, UserError
from common.files import REPOSITORY
from common.meta import without_memory
from configuration.targets import instantiate_from_config
from weights.checkpoint import describe_mismatches, required_tensors
from weights.division import own_shard
from weights.lora_keys import is_lora
from weights.lora_names import is_matrix, without_lora
from weights.sources import materialize, transformer_weights

logger = logging.getLogger(__name__)


def build_network(network_config: Mapping, path: str | Path, dtype: torch.dtype, device: torch.device | str
                  ) -> nn.Module:
    """Build a transformer and load its weights, without first allocating or initializing others.

    Raises CheckpointError as `check_network` does.
    """
    with without_memory():
        network = instantiate_from_config(network_config)
    materialize(network, dtype, device)
    network.reinit()  # computed tables and a new LoRA may be missing from the file
    load_network(network, path)
    return network


def load_network(network: nn.Module, path: str | Path) -> None:
    """Load weights into a transformer; if it is divided among processes, only this process's part.

    Raises CheckpointError as `check_network` does.
    """
    weights = own_shard(transformer_weights(path), network)
    _check_preset(network, weights.shapes, weights.source)
    weights.copy_into(network)
    logger.info("loaded %d tensors from %s%s", len(weights.links), path, weights.described)


def check_network(network_config: Mapping, path: str | Path) -> None:
    """Check that weights (a path, as in `weights.transformer_weights`) fit a configuration's transformer.

    Neither is read or built. Raises CheckpointError naming the tensors that do not fit, and presets in configs/ that
    would.
    """
    with without_memory():
        network = instantiate_from_config(network_config)
    weights = own_shard(transformer_weights(path), network)
    _check_preset(network, weights.shapes, weights.source)


def fitting_presets(shapes: Mapping[str, torch.Size], folder: Path = REPOSITORY / "configs") -> list[str]:
    """Return the presets whose transformer has exactly these tensors; computed tables do not count."""
    fitting = []
    for preset in sorted(folder.glob("*.yaml")):
        try:
            config = OmegaConf.select(OmegaConf.load(preset), "model.network_config")
            if config is None or "target" not in config:  # a file to be merged over another
                continue
            with without_memory():
                network = instantiate_from_config(config)
        except (UserError, OSError, YAMLError, OmegaConfBaseException, TypeError, ValueError) as error:
            logger.debug("%s is left out of the presets: %s", preset, error)  # a hint must not fail
            continue
        computed = dict(network.named_buffers())
        wanted = {k: v.shape for k, v in network.named_parameters()}
        if wanted == {k: v for k, v in shapes.items() if k not in computed}:
            fitting.append(f"{folder.name}/{preset.name}")
    return fitting


def preset_hint(state: Mapping[str, Tensor]) -> str:
    """Return a clause naming the presets whose transformer has these tensors, LoRA aside."""
    presets = fitting_presets({k: v.shape for k, v in without_lora(state).items()})
    return f"{' or '.join(presets)} would fit it" if presets else "no preset in configs/ fits it"


def _check_preset(network: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    own = required_tensors(network, state)
    if all(map(is_lora, state)) or any("lora_" in name for name in state):
        raise CheckpointError(f"checkpoint {file} holds a LoRA alone; give it as args.load_lora, and as args.load the "
                              "weights of the model that it was trained for")
    if any(map(is_matrix, state)) and not any(map(is_matrix, own)):
        raise CheckpointError(f"checkpoint {file} holds a LoRA beside the model's weights; separate or merge them with "
                              "tools/convert_lora.py, or give the model the lora_config that it was trained with")
    faults = describe_mismatches(own, state)
    if faults:  # presets take time to build, so only on failure
        raise CheckpointError(f"checkpoint {file} does not fit the configuration; {faults}; {preset_hint(state)}")
