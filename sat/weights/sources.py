"""Loading of weights into modules, from checkpoints and shards in this project's, the release's or diffusers' layout.

Files are memory-mapped. A model is copied in portions, each through a new mapping, so that the pages read for one
portion are freed before the next: the peak memory is that of the model and little more.
"""
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from weights.checkpoint import find_checkpoint
from weights.diffusers_folder import check_part, part_folder
from weights.diffusers_layout import is_diffusers_transformer, links_from_diffusers, vae_links
from weights.links import Link
from weights.released_layout import _itself, _released_links
from weights.shards import NAMES, read_shards, shard_files

COPY_PORTIONS = 16  # portions of a copy; more of them need less memory beside the model, but each maps the files again
SHARED = ("shared.weight", "encoder.embed_tokens.weight")


@dataclass(frozen=True)
class Weights:
    """The tensors of a file or folder, not yet read.

    `open` maps the tensors of the given names (None: all) and returns them by their names on disk. `links`, by name in
    this project's layout, say which stored tensors make up each tensor.
    """

    source: Path
    open: Callable[[Container[str] | None], Mapping[str, Tensor]]
    links: Mapping[str, Link]

    @cached_property
    def shapes(self) -> dict[str, Tensor]:
        """The tensors by name in this project's layout, on the meta device; no data is read."""
        return _made(self.links.values(), {name: tensor.to("meta") for name, tensor in self.open(None).items()})

    def read(self) -> dict[str, Tensor]:
        """Return all tensors by name in this project's layout: memory-mapped, or merged in memory from several."""
        return _made(self.links.values(), self.open(None))

    def copy_into(self, module: nn.Module) -> None:
        """Copy the tensors into a module of the same names and shapes, converting to its dtype and device."""
        for portion in self._portions():
            tensors = self.open({name for link in portion for name in link.theirs})
            module.load_state_dict(_made(portion, tensors), strict=False)
            del tensors

    def _portions(self) -> Iterator[list[Link]]:
        most = sum(shape.nbytes for shape in self.shapes.values()) / COPY_PORTIONS
        portion: list[Link] = []
        filled = 0
        for name, link in self.links.items():
            size = self.shapes[name].nbytes
            if portion and filled + size > most:
                yield portion
                portion, filled = [], 0
            portion.append(link)
            filled += size
        yield portion


def transformer_weights(path: str | Path) -> Weights:
    """Return a transformer's weights from a checkpoint of any layout, diffusers' transformer/ or a pipeline folder.

    A whole model's checkpoint gives only the transformer. Raises CheckpointError if the file is missing or damaged.
    """
    source, files = _found(path, "transformer")
    open_ = _opener(files)
    state = open_(None)
    links = links_from_diffusers(state) if is_diffusers_transformer(state) else _released_links(state)
    return Weights(source, open_, {link.name: link for link in links})


def autoencoder_weights(path: str | Path, names: Iterable[str], levels: int, ignore: Iterable[str] = ()) -> Weights:
    """Return an autoencoder's weights from a checkpoint, diffusers' vae/ or a pipeline folder.

    `names` are the autoencoder's tensors, `levels` its number of resolutions. Tensors whose name starts with one of
    `ignore` are left out. Raises CheckpointError if the file is missing or damaged.
    """
    source, files = _found(path, "vae")
    open_ = _opener(files)
    state = {name: None for name in open_(None) if not name.startswith(tuple(ignore))}
    links = {link.name: link for link in vae_links(names, levels)
             if link.theirs[0] in state and link.name not in state}
    moved = {link.theirs[0] for link in links.values()}
    return Weights(source, open_, links | {name: _itself(name) for name in state if name not in moved})


def text_encoder_weights(folder: Path, files: Sequence[Path], ignore: Iterable[str] = ()) -> Weights:
    """Return the weights of a Hugging Face T5 encoder, stored in `files` of `folder`.

    Tensors whose name starts with one of `ignore` are left out.
    """
    open_ = _opener(files)
    links = {name: _itself(name) for name in open_(None) if not name.startswith(tuple(ignore))}
    for name, other in (SHARED, SHARED[::-1]):  # one matrix with two names; files hold one or both
        if name in links:
            links.setdefault(other, Link(other, (name,)))
    return Weights(folder, open_, links)


def materialize(module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Allocate memory for a module on the meta device; its content is arbitrary until weights are copied into it."""
    module.to(dtype).to_empty(device=device)


def _made(links: Iterable[Link], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {link.name: link.merge(*(state[part] for part in link.theirs)) for link in links}


def _found(path: str | Path, part: str) -> tuple[Path, list[Path]]:
    """Return the diffusers folder of a part and its files, or else the checkpoint file that the path names."""
    folder = part_folder(path, part)
    if folder is None:
        file = find_checkpoint(path)
        return file, [file]
    check_part(folder, part)
    return folder, shard_files(folder, NAMES)


def _opener(files: Sequence[Path]) -> Callable[[Container[str] | None], Mapping[str, Tensor]]:
    if all(file.suffix == ".safetensors" or zipfile.is_zipfile(file) for file in files):
        return lambda names: read_shards(files, names)
    content = read_shards(files)  # torch.save's old format cannot be memory-mapped: read once
    return lambda names: content
