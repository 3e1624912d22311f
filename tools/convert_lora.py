"""Convert a LoRA between this project's layout and that of diffusers (PEFT), or merge it into its model's weights.

    python tools/convert_lora.py configs/cogvideox_5b.yaml runs/my_lora my_lora_diffusers --to diffusers
    python tools/convert_lora.py configs/cogvideox_5b.yaml their_lora.safetensors checkpoints/my_lora --to sat
    python tools/convert_lora.py configs/cogvideox_5b.yaml runs/my_lora checkpoints/my_model --to merged
    python tools/convert_lora.py configs/cogvideox_5b.yaml one two checkpoints/both --to merged --lora-scale 0.8 0.3

A source is a LoRA of any spelling that docs/released_models.md lists, or a checkpoint of a whole model with a LoRA;
several are added. The target is a new folder. diffusers loads a converted LoRA with
`CogVideoXPipeline.load_lora_weights(folder)`. Merging reads the model's weights from args.load of the configuration (or
from --load, in any form that args.load takes), and args.load takes the result.
"""
import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import torch

from arguments import get_args
from common.console import run
from common.errors import CheckpointError, ConfigError
from common.files import check_empty, expanded_path, whole_folder
from configuration.settings import RunSettings
from configuration.targets import check_config, instantiate_from_config
from configuration.yaml_files import require
from weights.checkpoint import NETWORK_PREFIX, check_shapes, save_checkpoint
from weights.lora import checkpoint_of, merge, read_loras
from weights.lora_names import Lora, is_matrix, without_lora
from weights.lora_peft import write_peft
from weights.sources import transformer_weights

LAYOUTS = ("diffusers", "sat", "merged")


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options. Raises ConfigError for a target that is a source or holds anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the model's configuration, such as configs/cogvideox_5b.yaml")
    parser.add_argument("sources", metavar="source", nargs="+", help="the LoRA, or several: folders or files")
    parser.add_argument("named_target", metavar="target", help="the folder to write")
    parser.add_argument("--to", choices=LAYOUTS, required=True, help="what to write")
    parser.add_argument("--alpha", type=float, nargs="+", help="alpha of each source, in place of the one that it has")
    parser.add_argument("--lora-scale", type=float, nargs="+", help="factor of each source's strength (default: 1)")
    parser.add_argument("--load", help="weights to merge into, in place of the configuration's args.load")
    options = parser.parse_args(argv)
    if options.load is not None and options.to != "merged":
        raise ConfigError(f"--load names weights to merge into, which --to {options.to} does not; leave it out")
    target = options.target = expanded_path(options.named_target, "target")
    if target.resolve() in [Path(source).resolve() for source in options.sources]:
        raise ConfigError(f"source and target are both {target}; write to another folder")
    check_empty(target)
    return options


def merged_state(lora: Lora, weights: str | None) -> dict[str, torch.Tensor]:
    """Return the model's weights with the LoRA merged in. Raises CheckpointError if they are missing or do not fit."""
    if weights is None:
        raise CheckpointError("merging needs the model's weights: set args.load in the configuration, or give --load")
    state = transformer_weights(weights).read()
    if own := [name for name in state if is_matrix(name)]:
        raise CheckpointError(f"{weights} has a LoRA of its own beside the weights ({len(own)} matrices), which would "
                              "be lost; merge into weights without one")
    assert lora.base is not None  # the configuration's
    check_shapes(lora.base, state, weights)
    merge(lora, state)
    return state


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    chosen = RunSettings(load_lora=options.sources, lora_scale=options.lora_scale, lora_alpha=options.alpha)
    args = get_args(["--base", options.config])
    with torch.device("meta"):
        network = require(check_config(args.model_config).get("network_config"), "model.network_config", "target")
        base = without_lora(instantiate_from_config(network).state_dict())
    lora = replace(read_loras(chosen, base), base=base)
    state = merged_state(lora, options.load or args.run.load) if options.to == "merged" else {}
    with whole_folder(options.target) as folder:
        if options.to == "diffusers":
            write_peft(folder, lora)
        elif options.to == "sat":
            save_checkpoint(folder, "release", checkpoint_of(lora))
        else:
            save_checkpoint(folder, "release", {
                "module": {NETWORK_PREFIX + name: value for name, value in state.items()}})
    sys.stdout.write(f"{options.target}\n")


if __name__ == "__main__":
    sys.exit(run(main))
