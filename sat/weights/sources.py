"""Weights into a module, from wherever they are: checkpoints of either project, single files, folders of shards.

Files are mapped into memory. A model is copied piece by piece, each from a mapping of its own: what one piece brought
into memory is let go before the next, so that the peak is the model and little more.
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

PIECES = 16  # each costs a mapping, and with its copy that much memory beside the model
SHARED = ("shared.weight", "encoder.embed_tokens.weight")


@dataclass(frozen=True)
class Weights:
    """Tensors on disk. `open` maps those of given names, or all of them (None), by the names they have there; `links`
    tell, by name here, which of them make a tensor."""

    source: Path
    open: Callable[[Container[str] | None], Mapping[str, Tensor]]
    links: Mapping[str, Link]

    @cached_property
    def shapes(self) -> dict[str, Tensor]:
        """By name here, on the meta device: nothing is read for it."""
        return _made(self.links.values(), {name: tensor.to("meta") for name, tensor in self.open(None).items()})

    def read(self) -> dict[str, Tensor]:
        """All by name here: mapped into memory, or put together in it where the file holds them in parts."""
        return _made(self.links.values(), self.open(None))

    def copy_into(self, module: nn.Module) -> None:
        """Copies the tensors into a module of the same names and shapes, to its dtype and device."""
        for piece in self._pieces():
            tensors = self.open({name for link in piece for name in link.theirs})
            module.load_state_dict(_made(piece, tensors), strict=False)
            del tensors

    def _pieces(self) -> Iterator[list[Link]]:
        most = sum(shape.nbytes for shape in self.shapes.values()) / PIECES
        piece: list[Link] = []
        filled = 0
        for name, link in self.links.items():
            size = self.shapes[name].nbytes
            if piece and filled + size > most:
                yield piece
                piece, filled = [], 0
            piece.append(link)
            filled += size
        yield piece


def transformer_weights(path: str | Path) -> Weights:
    """Of a checkpoint folder or file in either layout, of diffusers' transformer/, or of a whole pipeline folder.

    A whole model's checkpoint gives the transformer alone. Raises CheckpointError for what is missing or damaged.
    """
    source, files = _found(path, "transformer")
    open_ = _opener(files)
    state = open_(None)
    links = links_from_diffusers(state) if is_diffusers_transformer(state) else _released_links(state)
    return Weights(source, open_, {link.name: link for link in links})


def autoencoder_weights(path: str | Path, names: Iterable[str], levels: int, ignore: Iterable[str] = ()) -> Weights:
    """The same for an autoencoder whose tensors here are called `names`, and diffusers' vae/.

    Tensors whose name starts with one of `ignore` are left out.
    """
    source, files = _found(path, "vae")
    open_ = _opener(files)
    state = {name: None for name in open_(None) if not name.startswith(tuple(ignore))}
    links = {link.name: link for link in vae_links(names, levels)
             if link.theirs[0] in state and link.name not in state}
    moved = {link.theirs[0] for link in links.values()}
    return Weights(source, open_, links | {name: _itself(name) for name in state if name not in moved})


def text_encoder_weights(folder: Path, files: Sequence[Path], ignore: Iterable[str] = ()) -> Weights:
    """The same for the encoder of a Hugging Face T5 in `files`."""
    open_ = _opener(files)
    links = {name: _itself(name) for name in open_(None) if not name.startswith(tuple(ignore))}
    for name, other in (SHARED, SHARED[::-1]):  # one matrix under two names, of which files hold one or both
        if name in links:
            links.setdefault(other, Link(other, (name,)))
    return Weights(folder, open_, links)


def materialize(module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Gives a module on the meta device memory, whose content is arbitrary until weights are copied into it."""
    module.to(dtype).to_empty(device=device)


def _made(links: Iterable[Link], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {link.name: link.merge(*(state[part] for part in link.theirs)) for link in links}


def _found(path: str | Path, part: str) -> tuple[Path, list[Path]]:
    """What a path means, and its files: the folder of a part in diffusers' arrangement, or else a checkpoint's file."""
    folder = part_folder(path, part)
    if folder is None:
        file = find_checkpoint(path)
        return file, [file]
    check_part(folder, part)
    return folder, shard_files(folder, NAMES)


def _opener(files: Sequence[Path]) -> Callable[[Container[str] | None], Mapping[str, Tensor]]:
    if all(file.suffix == ".safetensors" or zipfile.is_zipfile(file) for file in files):
        return lambda names: read_shards(files, names)
    content = read_shards(files)  # the old format of torch.save cannot be mapped: read once, whole
    return lambda names: content
