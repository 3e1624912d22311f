"""Convert weights between this project's layout and that of Hugging Face's diffusers, bit for bit.

    python tools/convert_weights.py configs/cogvideox_5b.yaml CogVideoX-5b checkpoints/cogvideox_5b --to sat
    python tools/convert_weights.py configs/cogvideox_5b.yaml checkpoints/cogvideox_5b CogVideoX-5b --to diffusers

Both folders have transformer/ and vae/. In this project's layout, transformer/ holds `latest` and the iteration it
names, and vae/ holds 3d-vae.pt; in that of diffusers each holds config.json and safetensors files, which
`from_pretrained` reads. Tensors keep their dtype, and one is in memory at a time. --to sat needs free disk space for a
third of the model while it runs.
"""
import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sat"))

import torch
from torch import Tensor

from arguments import get_args
from common.console import run
from common.errors import ConfigError
from common.files import whole_file
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from weights.checkpoint import NETWORK_PREFIX, check_shapes, read_state_dict, save_checkpoint
from weights.diffusers_config import transformer_config, vae_config
from weights.diffusers_layout import PATCH, TABLE, from_diffusers, to_diffusers, transformer_links, vae_links
from weights.links import Link
from weights.shards import read_tensors, write_tensors
from weights.sources import transformer_weights

PARTS = ("transformer", "vae")
VAE_FILE = "3d-vae.pt"
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Part:
    """A part of a model: its tensors in this project's layout (on `meta`), their links to diffusers', and its files."""

    shapes: Mapping[str, Tensor]
    links: Sequence[Link]
    config: Mapping
    read: Callable[[Path], Mapping[str, Tensor]]
    write: Callable[[Path, Mapping[str, Tensor]], object]


def parts_of(model: Mapping) -> dict[str, Part]:
    """Return transformer and VAE of a configuration's `model` section, built on `meta`. Raises ConfigError."""
    network = model["network_config"]["params"]
    first_stage = {**model["first_stage_config"]["params"], "ckpt_path": None}
    with torch.device("meta"):
        transformer = instantiate_from_config(model["network_config"]).state_dict()
        vae = instantiate_from_config({**model["first_stage_config"], "params": first_stage}).state_dict()
    levels = len(first_stage["decoder_config"]["params"].get("ch_mult", (1, 2, 2, 4)))
    return {
        "transformer": Part(
            transformer, transformer_links(transformer, network), transformer_config(network),
            lambda folder: transformer_weights(folder).read(),
            lambda folder, state: save_checkpoint(
                folder, "release", {"module": {NETWORK_PREFIX + k: v for k, v in state.items()}})),
        "vae": Part(vae, vae_links(vae, levels), vae_config(model), _read_vae, _write_vae)}


def convert_to_diffusers(part: Part, source: Path, target: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Convert a part to diffusers' layout. Raises CheckpointError if the tensors of `source` are not the part's."""
    state = part.read(source)
    check_shapes(part.shapes, state, source)
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    write_tensors(target, dict(to_diffusers(part.links, shapes)), to_diffusers(part.links, state), shard_bytes)
    with whole_file(target / "config.json") as file:
        file.write_text(json.dumps(part.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert_to_sat(part: Part, source: Path, target: Path, network_config: Mapping) -> None:
    """Convert a part to this project's layout. Raises CheckpointError if the tensors of `source` are not the part's."""
    state = read_tensors(source)
    check_shapes(dict(to_diffusers(part.links, part.shapes)), state, source)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as spill:
        converted = dict(_spilled(from_diffusers(part.links, state), Path(spill)))
        if TABLE in part.shapes and TABLE not in converted:
            converted[TABLE] = fixed_table(network_config).to(converted[PATCH].dtype)
        part.write(target, {name: converted[name] for name in part.shapes})


def _spilled(tensors: Iterator[tuple[Link, Tensor]], folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor); a tensor joined from several is mapped to a file, so that the system can page it out."""
    for link, tensor in tensors:
        if len(link.theirs) > 1:
            file = torch.from_file(str(folder / link.name), True, tensor.numel(), dtype=tensor.dtype)
            tensor = file.view(tensor.shape).copy_(tensor)
        yield link.name, tensor


def fixed_table(network_config: Mapping) -> Tensor:
    """Return the fixed position embedding, which this project's checkpoints store and diffusers' do not."""
    small = {**network_config, "params": {**network_config["params"], "num_layers": 1}}
    return instantiate_from_config(small).mixins["pos_embed"].pos_embedding


def _read_vae(folder: Path) -> dict[str, Tensor]:
    state = read_state_dict(folder / VAE_FILE)
    return {k: v for k, v in state.items() if not k.startswith("loss.")}


def _write_vae(folder: Path, state: Mapping[str, Tensor]) -> None:
    with whole_file(folder / VAE_FILE) as file:
        torch.save({"state_dict": dict(state)}, file)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="the model's configuration, such as configs/cogvideox_5b.yaml")
    parser.add_argument("source", type=Path, help="the folder to read, with transformer/ and vae/")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--to", choices=("diffusers", "sat"), required=True, help="the layout to write")
    parser.add_argument("--only", choices=PARTS, help="convert this part only")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="maximum file size (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.source.resolve() == options.target.resolve():
        raise ConfigError(f"source and target are both {options.source}; write to another folder")
    model = plain(get_args(["--base", options.config]).model_config)
    for name, part in parts_of(model).items():
        if options.only in (None, name):
            source, target = options.source / name, options.target / name
            if options.to == "diffusers":
                convert_to_diffusers(part, source, target, options.shard_bytes)
            else:
                convert_to_sat(part, source, target, model["network_config"])
            sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    sys.exit(run(main))
