"""The weaker transformer that a guider such as Autoguidance evaluates beside the model's own."""
from collections.abc import Mapping

from torch import nn

from common.errors import ConfigError
from configuration.targets import instantiate_from_config
from weights.network import check_network, load_network


def check_guidance(guider, network_config: Mapping) -> None:
    """Check that this transformer, and the weaker one if any, can evaluate a guider's branches; neither is built.

    Raises ConfigError if they cannot, or if the two differ in channels or text width; CheckpointError if the weaker
    one's weights are missing, damaged or of other shapes.
    """
    guider.check_network(network_config["params"])
    if guider.weak is None:
        return
    config = weak_config(guider, network_config)
    ours, theirs = _interface_sizes(network_config), _interface_sizes(config)
    for key, size in ours.items():
        if theirs[key] != size:
            raise ConfigError(f"guider_config.params.network_config: {key} is {theirs[key]}, but it is {size} in "
                              "model.network_config; make them equal")
    check_network(config, guider.weak.ckpt_path)


def build_weak(guider, network_config: Mapping) -> nn.Module | None:
    """Return the weaker transformer with its weights, which are never trained; None if the guider has none."""
    if guider.weak is None:
        return None
    network = instantiate_from_config(weak_config(guider, network_config))
    load_network(network, guider.weak.ckpt_path)
    return network.requires_grad_(False)


def weak_config(guider, network_config: Mapping) -> Mapping:
    """Return the `{target, params}` of a guider's weaker transformer, by default the model's own without its LoRA.

    The LoRA is left out because it is trained for the stronger weights.
    """
    if guider.weak.network_config is not None:
        return guider.weak.network_config
    params = network_config["params"]
    modules = {name: part for name, part in params["modules"].items() if name != "lora_config"}
    return {**network_config, "params": {**params, "modules": modules}}


def _interface_sizes(network_config: Mapping) -> dict:
    """Return the sizes of a network's inputs and outputs, which two networks must share."""
    params = network_config.get("params") or {}
    modules = params.get("modules") or {}
    patch_embed = modules.get("patch_embed_config") or {}
    patches = patch_embed.get("params") or {}
    return {"in_channels": params.get("in_channels"), "out_channels": params.get("out_channels"),
            "text_hidden_size": patches.get("text_hidden_size")}
