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
from common.listing import listed
from common.meta import without_memory
from configuration.settings import RunSettings
from configuration.targets import instantiate_from_config
from weights.checkpoint import NETWORK_PREFIX, describe_mismatches
from weights.diffusers_layout import TABLE
from weights.links import MERGES
from weights.lora_files import HEADER, read_content
from weights.lora_forms import scaled_sum
from weights.lora_names import ATTENTION, PARTS, Lora, is_matrix, layer_name, matrix_names, without_lora
from weights.lora_pairs import lora_of_content
from weights.network import preset_hint

logger = logging.getLogger(__name__)

MIXIN = "sat.model.finetune.lora2.LoraMixin"


def read_lora(path: str | Path, alpha: float | None = None) -> Lora:
    """Read a LoRA from a file or folder in any of the spellings that docs/released_models.md lists.

    `alpha` takes the place of the stored one. Raises CheckpointError for a file without a LoRA, or with one that
    cannot be used.
    """
    return lora_of_content(read_content(path), alpha)


def read_loras(run: RunSettings, base: Mapping[str, Tensor], report: bool = True) -> Lora:
    """Return the sum of a run's LoRAs, each times its scale, after comparing each with a transformer's tensors `base`.

    `report`: log rank, alpha and strength of each, and where alpha is stated. Raises as `read_lora` and `check_fits`
    do.
    """
    loras = []
    for chosen in run.loras:
        lora = read_lora(chosen.file, chosen.alpha)
        check_fits(lora, base, chosen.file)
        loras.append(lora)
        if report:
            logger.info("LoRA %s: %s; scale %g", chosen.file, lora.described, chosen.scale)
            for doubt in lora.doubts:
                logger.warning("LoRA %s: %s", chosen.file, doubt)
    return scaled_sum(loras, [chosen.scale for chosen in run.loras])


def checkpoint_of(lora: Lora) -> dict:
    """Return the content of a LoRA's checkpoint file."""
    return {"module": {NETWORK_PREFIX + name: value for name, value in lora.matrices.items()}, HEADER: header_of(lora)}


def header_of(lora: Lora) -> dict:
    """Return the alpha of a LoRA and the shapes of its base model, as checkpoints hold them beside the matrices."""
    shapes = {name: list(value.shape) for name, value in (lora.base or {}).items()}
    return {"lora_alpha": lora.alpha, "base_shapes": shapes}


def configure_lora(model: MutableMapping, run: RunSettings) -> None:
    """Add a `lora_config` that fits a run's LoRAs to the network of a `model` section, in place.

    The model's weights are neither read nor built. Raises CheckpointError for a LoRA of another model, and ConfigError
    if there is a `lora_config` already whose rank or alpha differs.
    """
    if not run.loras:
        return
    modules = model["network_config"]["params"]["modules"]
    given = (modules.get("lora_config") or {}).get("params") or {}
    with without_memory():
        network = instantiate_from_config(model["network_config"])
    lora = read_loras(run, without_lora(network.state_dict()))
    if modules.get("lora_config") is None:
        modules["lora_config"] = {"target": MIXIN, "params": _params(lora)}
    elif (given.get("r"), float(given.get("lora_alpha", 1.0))) != (lora.rank, lora.alpha):
        raise ConfigError(f"lora_config has r {given.get('r')}, lora_alpha {given.get('lora_alpha', 1)}, but the LoRA "
                          f"{listed(run.load_lora or ())} has {lora.rank}, {lora.alpha:g}; make them equal (alpha of a "
                          "file that does not store it: args.lora_alpha), or leave lora_config out")


def _params(lora: Lora) -> dict:
    params = {"r": lora.rank, "lora_alpha": lora.alpha, "layer_range": lora.layers}
    return params if lora.kinds == list(ATTENTION) else params | {"targets": lora.kinds}


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
    layers = [layer_name(kind, i) for i in lora.layers for kind in lora.kinds]
    lacking = [layer for layer in layers if f"{layer}.weight" not in base]
    if lacking:
        raise CheckpointError(f"LoRA {path} does not fit the model, which lacks {len(lacking)} of its layers: "
                              f"{listed(lacking)}; give the model that it was trained for")
    faults = describe_mismatches(_expected(lora, base), lora.matrices)
    if faults:
        raise CheckpointError(f"LoRA {path} does not fit the model; {faults}")


def _expected(lora: Lora, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices that LoRA must have, on the meta device."""
    expected = {}
    for i in lora.layers:
        for kind in lora.kinds:
            rows, columns = base[f"{layer_name(kind, i)}.weight"].shape
            for name in matrix_names([i], [kind]):
                shape = (lora.rank, columns) if ".matrix_A." in name else (rows // PARTS[kind], lora.rank)
                expected[name] = torch.empty(shape, device="meta")
    return expected


def load_lora(network: nn.Module, run: RunSettings) -> None:
    """Load the matrices of a run's LoRAs into a network that has LoRA. Raises CheckpointError if they do not fit it."""
    if not run.loras:
        return
    lora = read_loras(run, without_lora(network.state_dict()), report=False)
    if network.load_state_dict(lora.matrices, strict=False).unexpected_keys:
        raise CheckpointError(f"args.load_lora is on layers {lora.layers}, {', '.join(lora.kinds)}, not all of which "
                              "are in lora_config; leave its layer_range and targets out")
    logger.info("loaded a LoRA of rank %d from %s", lora.rank, listed(run.load_lora or ()))


def without_gradient(network: nn.Module) -> list[str]:
    """Return the matrices A of a LoRA that are zero as their B is, such as those of parts that its file lacks.

    Neither has a gradient then, so that training never changes them.
    """
    own = dict(network.named_parameters())
    return [name for name, value in own.items() if ".matrix_A." in name and not value.any()
            and not own[name.replace(".matrix_A.", ".matrix_B.")].any()]


def check_training(run: RunSettings) -> None:
    """Raise ConfigError for LoRAs that training cannot continue from."""
    if len(run.loras) > 1:
        raise ConfigError(f"args.load_lora names {len(run.loras)} LoRAs; training continues one of them: merge the "
                          "others into the weights with tools/convert_lora.py")
    if run.loras and run.loras[0].scale != 1:
        raise ConfigError(f"args.lora_scale is {run.loras[0].scale:g}; training continues a LoRA at its own strength: "
                          "leave it out")


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
    """Add a LoRA to the weights of a transformer without one, in place: W + (alpha / r) B A, computed in float32.

    Raises CheckpointError if a sum exceeds what the weights' type can hold.
    """
    for i in lora.layers:
        for kind in lora.kinds:
            layer = layer_name(kind, i)
            update = MERGES[PARTS[kind]](*(lora.matrices[f"{layer}.matrix_B.{part}"].float()
                                           @ lora.matrices[f"{layer}.matrix_A.{part}"].float()
                                           for part in range(PARTS[kind])))
            weight = state[f"{layer}.weight"]
            merged = (weight.float() + update * (lora.alpha / lora.rank)).to(weight.dtype)
            if not torch.isfinite(merged).all():
                raise CheckpointError(f"the weight of {layer} is not finite with the LoRA merged in; its strength is "
                                      "too high, or the model's weights are damaged")
            state[f"{layer}.weight"] = merged
