"""Convert weights between this project's layout and that of Hugging Face's diffusers, bit for bit.

    python tools/convert_weights.py configs/cogvideox_5b.yaml CogVideoX-5b checkpoints/cogvideox_5b --to sat
    python tools/convert_weights.py configs/cogvideox_5b.yaml checkpoints/cogvideox_5b CogVideoX-5b --to diffusers

Both folders have transformer/ and vae/. In this project's layout, transformer/ holds `latest` and the iteration it
names, and vae/ holds 3d-vae.pt; in that of diffusers each holds config.json and safetensors files, which
`from_pretrained` reads. SOURCE may also be one file, in any spelling that docs/released_models.md lists. Tensors keep
their dtype, except that float8 becomes bfloat16, and one is in memory at a time. Each part is written as a whole or not
at all, and never over anything. --to sat needs free disk space for a third of the model while it runs (for float8, for
two thirds).
"""
import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import torch
from torch import Tensor

from arguments import get_args
from common.console import run
from common.errors import CheckpointError, ConfigError
from common.files import check_empty, expanded_path, whole_folder
from common.typed import typed
from configuration.model import ModelConfig
from configuration.targets import check_config, instantiate_from_config
from configuration.yaml_files import plain, require
from weights.checkpoint import (
    NETWORK_PREFIX,
    describe_mismatches,
    save_checkpoint,
    write_states,
)
from weights.diffusers_config import transformer_config, vae_config
from weights.diffusers_layout import PATCH, TABLE, to_diffusers, transformer_links, vae_links
from weights.links import Link
from weights.network import preset_hint
from weights.shards import write_tensors
from weights.sources import Weights, autoencoder_weights, transformer_weights

PARTS = ("transformer", "vae")
VAE_FILE = "3d-vae.pt"
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Part:
    """A part of a model: its tensors in this project's layout (on `meta`), their links to diffusers', and its files.

    `hint` returns a clause on what weights might fit instead of those that do not.
    """

    shapes: Mapping[str, Tensor]
    links: Sequence[Link]
    config: Mapping
    find: Callable[[Path], Weights]
    write: Callable[[Path, Mapping[str, Tensor]], object]
    hint: Callable[[Mapping[str, Tensor]], str] = lambda shapes: "take the configuration of the model they are of"


def parts_of(model: Mapping) -> dict[str, Part]:
    """Return transformer and VAE of a configuration's `model` section, built on `meta`. Raises ConfigError."""
    model = check_config(typed(ModelConfig, model, "model"))
    parts = {key: require(model.get(key), f"model.{key}", "target", "params") for key in (
        "network_config", "first_stage_config")}
    network = require(parts["network_config"]["params"], "model.network_config.params", "modules")
    first_stage = {**require(parts["first_stage_config"]["params"], "model.first_stage_config.params",
                             "decoder_config"), "ckpt_path": None}
    require(first_stage["decoder_config"], "model.first_stage_config.params.decoder_config", "params")
    with torch.device("meta"):
        transformer = instantiate_from_config(model["network_config"]).state_dict()
        vae = instantiate_from_config({**model["first_stage_config"], "params": first_stage}).state_dict()
    levels = len(first_stage["decoder_config"]["params"].get("ch_mult", (1, 2, 2, 4)))
    return {
        "transformer": Part(
            transformer, transformer_links(transformer, network), transformer_config(network), transformer_weights,
            lambda folder, state: save_checkpoint(
                folder, "release", {"module": {NETWORK_PREFIX + k: v for k, v in state.items()}}), preset_hint),
        "vae": Part(
            vae, vae_links(vae, levels), vae_config(model),
            lambda path: autoencoder_weights(path, vae, levels, ignore=("loss.",)),
            lambda folder, state: write_states(folder / VAE_FILE, {"state_dict": dict(state)}))}


def find_source(source: Path, name: str) -> Path:
    """Return where a part is: the file itself, or the part's folder. Raises CheckpointError if there is none."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise CheckpointError(f"{source} does not exist; give a folder that has transformer/ and vae/, or a file")
    if (source / name).is_dir():
        return source / name
    given = "give one that has transformer/ and vae/, or a file"
    raise CheckpointError(f"folder {source} has no {name}/; {given}, or convert one part with --only")


def check_fits(part: Part, weights: Weights) -> None:
    """Raise CheckpointError unless weights are the part's; tables that diffusers computes may be missing."""
    computed = {link.name for link in part.links if not link.theirs}
    own = {name: shape for name, shape in part.shapes.items() if name in weights.shapes or name not in computed}
    faults = describe_mismatches(own, weights.shapes)
    if faults:
        raise CheckpointError(f"{weights.source} does not fit the configuration; {faults}; {part.hint(weights.shapes)}")


def convert_to_diffusers(part: Part, source: Path, target: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Convert a part to diffusers' layout. Raises CheckpointError if the tensors of `source` are not the part's."""
    weights = part.find(source)
    check_fits(part, weights)
    links = [link for link in part.links if link.theirs]
    shapes = {link.name: weights.shapes[link.name].to(weights.dtype_of(link.name)) for link in links}
    state = weights.lazily()
    with whole_folder(target) as folder:
        write_tensors(folder, dict(to_diffusers(links, shapes)), to_diffusers(links, state), shard_bytes)
        (folder / "config.json").write_text(json.dumps(part.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert_to_sat(part: Part, source: Path, target: Path, network_config: Mapping) -> None:
    """Convert a part to this project's layout. Raises CheckpointError if the tensors of `source` are not the part's."""
    weights = part.find(source)
    check_fits(part, weights)
    state = weights.lazily()
    with whole_folder(target) as folder, tempfile.TemporaryDirectory(dir=folder) as spill:
        converted = {name: state[name] if weights.is_mapped(name) else _spilled(state[name], Path(spill) / name)
                     for name in part.shapes if name in weights.shapes}
        if TABLE in part.shapes and TABLE not in converted:
            converted[TABLE] = fixed_table(network_config).to(converted[PATCH].dtype)
        part.write(folder, {name: converted[name] for name in part.shapes})


def _spilled(tensor: Tensor, file: Path) -> Tensor:
    """Return a tensor mapped to a file with its elements, so that the system can page it out.

    The file is written before it is mapped: a mapping of space that a full disk does not have would kill the process.
    """
    with open(file, "wb") as stream:
        stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.from_file(str(file), False, tensor.numel(), dtype=tensor.dtype).view(tensor.shape)


def fixed_table(network_config: Mapping) -> Tensor:
    """Return the fixed position embedding, which this project's checkpoints store and diffusers' do not."""
    small = {**network_config, "params": {**network_config["params"], "num_layers": 1}}
    return instantiate_from_config(small).mixins["pos_embed"].pos_embedding


def _shard_bytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of bytes, 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the model's configuration, such as configs/cogvideox_5b.yaml")
    parser.add_argument("source", type=Path, help="the folder to read, with transformer/ and vae/, or a file")
    parser.add_argument("named_target", metavar="target", help="the folder to write")
    parser.add_argument("--to", choices=("diffusers", "sat"), required=True, help="the layout to write")
    parser.add_argument("--only", choices=PARTS, help="convert this part only")
    parser.add_argument("--shard-bytes", type=_shard_bytes, default=SHARD_BYTES,
                        help="maximum file size (default: %(default)s)")
    options = parser.parse_args(argv)
    options.target = expanded_path(options.named_target, "target")
    if options.source.resolve() == options.target.resolve():
        raise ConfigError(f"source and target are both {options.source}; write to another folder")
    model = plain(get_args(["--base", options.config]).model_config)
    parts = {name: part for name, part in parts_of(model).items() if options.only in (None, name)}
    for name, part in parts.items():  # all that can be wrong is looked for before anything is written
        check_empty(options.target / name)
        check_fits(part, part.find(find_source(options.source, name)))
    for name, part in parts.items():
        source, target = find_source(options.source, name), options.target / name
        if options.to == "diffusers":
            convert_to_diffusers(part, source, target, options.shard_bytes)
        else:
            convert_to_sat(part, source, target, model["network_config"])
        sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    sys.exit(run(main))
