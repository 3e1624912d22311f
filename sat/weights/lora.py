"""LoRA files: reading, comparison with a model, loading into it, saving, and merging into its weights.

A LoRA checkpoint has the layout of any other checkpoint but holds only LoRA's matrices, and under `lora` its alpha and
the shapes of the model it was trained for, so that a wrong model is detected before weights are read.
"""
import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import CheckpointError, ConfigError
from configuration.targets import instantiate_from_config
from weights.checkpoint import NETWORK_PREFIX, describe_mismatches, find_checkpoint, open_safetensors, read_checkpoint
from weights.diffusers_layout import TABLE
from weights.lora_names import PARTS, Lora, is_matrix, matrix_names, without_lora
from weights.lora_peft import FILE, from_peft, is_peft
from weights.network import preset_hint
from weights.sources import transformer_weights

logger = logging.getLogger(__name__)

MIXIN = "sat.model.finetune.lora2.LoraMixin"
HEADER = "lora"


def read_lora(path: str | Path, unstated_alpha: float = 1.0) -> Lora:
    """Read a LoRA from its checkpoint, from that of a whole model with LoRA, or from PEFT's layout (file or folder).

    `unstated_alpha` is for the release's checkpoints, which do not store alpha. Raises CheckpointError for a file
    without a LoRA.
    """
    file = Path(path) / FILE if (Path(path) / FILE).is_file() else find_checkpoint(path)
    state = transformer_weights(file).read()
    if any(map(is_peft, state)):
        with open_safetensors(file) as opened:
            return from_peft(state, opened.metadata() or {}, file)
    matrices = {name: value for name, value in state.items() if is_matrix(name)}
    if not matrices:
        raise CheckpointError(f"{file} holds no LoRA; if these are the weights of a model, give them as args.load")
    base = {name: value.to("meta") for name, value in without_lora(state).items()}
    header = read_checkpoint(file).get(HEADER) or {}
    for name, shape in (header.get("base_shapes") or {}).items():
        base[name] = torch.empty(shape, device="meta")
    return Lora(matrices, float(header.get("lora_alpha", unstated_alpha)), base or None)


def checkpoint_of(lora: Lora) -> dict:
    """Return the content of a LoRA's checkpoint file."""
    return {"module": {NETWORK_PREFIX + name: value for name, value in lora.matrices.items()}, HEADER: header_of(lora)}


def header_of(lora: Lora) -> dict:
    """Return the alpha of a LoRA and the shapes of its base model, as checkpoints hold them beside the matrices."""
    shapes = {name: list(value.shape) for name, value in (lora.base or {}).items()}
    return {"lora_alpha": lora.alpha, "base_shapes": shapes}


def configure_lora(model: MutableMapping, path: str | Path) -> None:
    """Add a `lora_config` that fits a LoRA file to the network of a `model` section, in place.

    The model's weights are neither read nor built. Raises CheckpointError for a LoRA of another model, and ConfigError
    if there is a `lora_config` already whose rank or alpha differs.
    """
    modules = model["network_config"]["params"]["modules"]
    given = (modules.get("lora_config") or {}).get("params") or {}
    lora = read_lora(path, given.get("lora_alpha", 1.0))
    with torch.device("meta"):
        network = instantiate_from_config(model["network_config"])
    check_fits(lora, without_lora(network.state_dict()), path)
    if "lora_config" not in modules:
        modules["lora_config"] = {"target": MIXIN, "params": {
            "r": lora.rank, "lora_alpha": lora.alpha, "layer_range": lora.layers}}
    elif (given.get("r"), float(given.get("lora_alpha", 1.0))) != (lora.rank, lora.alpha):
        raise ConfigError(f"lora_config has r {given.get('r')}, lora_alpha {given.get('lora_alpha', 1)}, but the LoRA "
                          f"{path} has {lora.rank}, {lora.alpha:g}; make them equal, or leave lora_config out")


def check_fits(lora: Lora, base: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise CheckpointError unless the LoRA fits `base`, a transformer's tensors without LoRA.

    Only names and shapes count, so `base` may be on the meta device.
    """
    if lora.base is not None:
        # The position table may be computed for the size of the video, so it does not identify the model.
        given = {name: value for name, value in base.items() if name != TABLE}
        trained = {name: value for name, value in lora.base.items() if name != TABLE}
        faults = describe_mismatches(given, trained)
        if faults:
            raise CheckpointError(f"LoRA {path} was trained for another model; {faults}; {preset_hint(lora.base)}")
    faults = describe_mismatches(_expected(lora, base), lora.matrices)
    if faults:
        raise CheckpointError(f"LoRA {path} does not fit the model; {faults}")


def _expected(lora: Lora, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices that LoRA must have, on the meta device."""
    expected = {}
    for name in matrix_names(lora.layers):
        layer, matrix, _ = name.rsplit(".", 2)
        weight = base.get(f"{layer}.weight")
        if weight is not None:
            rows, columns = weight.shape[0] // PARTS[layer.split(".", 3)[3]], weight.shape[1]
            shape = (lora.rank, columns) if matrix == "matrix_A" else (rows, lora.rank)
            expected[name] = torch.empty(shape, device="meta")
    return expected


def load_lora(network: nn.Module, path: str | Path) -> None:
    """Load a LoRA's matrices into a network that has LoRA. Raises CheckpointError if they do not fit it."""
    lora = read_lora(path, alpha_of(network))
    check_fits(lora, without_lora(network.state_dict()), path)
    if network.load_state_dict(lora.matrices, strict=False).unexpected_keys:
        raise CheckpointError(f"LoRA {path} is on layers {lora.layers}, not all of which are in lora_config; leave its "
                              "layer_range out")
    logger.info("loaded a LoRA of rank %d from %s", lora.rank, path)


def trains_only_lora(network: nn.Module) -> bool:
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return bool(trained) and all(map(is_matrix, trained))


def lora_of(network: nn.Module) -> Lora:
    """Return a copy of a network's LoRA."""
    state = network.state_dict()
    base = {name: value.to("meta") for name, value in without_lora(state).items()}
    matrices = {name: value.clone() for name, value in state.items() if is_matrix(name)}
    return Lora(matrices, alpha_of(network), base)


def alpha_of(network: nn.Module) -> float:
    """Return alpha of the LoRA that a network has."""
    mixins: Any = network.mixins
    return float(mixins["lora"].lora_alpha)


def merge(lora: Lora, state: MutableMapping[str, Tensor]) -> None:
    """Add a LoRA to the weights of a transformer without one, in place: W + (alpha / r) B A, computed in float32."""
    for i in lora.layers:
        for layer, parts in PARTS.items():
            stem = f"transformer.layers.{i}.{layer}"
            update = torch.cat([lora.matrices[f"{stem}.matrix_B.{part}"].float()
                                @ lora.matrices[f"{stem}.matrix_A.{part}"].float() for part in range(parts)])
            weight = state[f"{stem}.weight"]
            state[f"{stem}.weight"] = (weight.float() + update * (lora.alpha / lora.rank)).to(weight.dtype)
