"""The weaker transformer that a guider such as Autoguidance asks beside the model's own."""
from collections.abc import Mapping

from torch import nn

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from weights.network import check_network, load_network


def check_guidance(guider, network_config: Mapping) -> None:
    """Whether a guider's passes can be asked of this transformer, and of the weaker one, without building either.

    Raises ConfigError for passes that it cannot make and for a weaker one of other channels or text width;
    CheckpointError for weights that are missing, damaged or of other shapes.
    """
    guider.check_network(network_config["params"])
    if guider.weak is None:
        return
    config = weak_config(guider, network_config)
    ours, theirs = _faces(network_config), _faces(config)
    for key, size in ours.items():
        if theirs[key] != size:
            raise ConfigError(f"guider_config.params.network_config: {key} is {theirs[key]}, but {size} in "
                              "model.network_config; make them equal")
    check_network(config, guider.weak.ckpt_path)


def build_weak(guider, network_config: Mapping) -> nn.Module | None:
    """The weaker transformer with its weights, which are never trained; None where the guider has none."""
    if guider.weak is None:
        return None
    network = instantiate_from_config(weak_config(guider, network_config))
    load_network(network, guider.weak.ckpt_path)
    return network.requires_grad_(False)


def weak_config(guider, network_config: Mapping) -> Mapping:
    """`{target, params}` of the weaker transformer of a guider that has one: as the guider says, else the model's own
    without its LoRA, which is trained for the stronger weights."""
    if guider.weak.network_config is not None:
        return guider.weak.network_config
    params = network_config["params"]
    modules = {name: part for name, part in params["modules"].items() if name != "lora_config"}
    return {**network_config, "params": {**params, "modules": modules}}


def _faces(network_config: Mapping) -> dict:
    """What a network shows to the outside."""
    params = network_config.get("params") or {}
    patches = ((params.get("modules") or {}).get("patch_embed_config") or {}).get("params") or {}
    return {"in_channels": params.get("in_channels"), "out_channels": params.get("out_channels"),
            "text_hidden_size": patches.get("text_hidden_size")}
