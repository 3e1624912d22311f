"""Loading of weights into modules, from checkpoints and shards in this project's, the release's or diffusers' layout.

Files are memory-mapped. A model is copied in portions, each through a new mapping, so that the pages read for one
portion are freed before the next: the peak memory is that of the model and little more.
"""
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from weights import fp8
from weights.checkpoint import check_finite, find_checkpoint
from weights.checksums import check_sums
from weights.diffusers_folder import check_part, part_folder
from weights.diffusers_layout import is_diffusers_transformer, links_from_diffusers, vae_links
from weights.formats import OLD_TORCH, TORCH, format_of
from weights.fp8 import Widened
from weights.links import Link
from weights.lora_names import without_lora
from weights.names import AUTOENCODER, TEXT_ENCODER, TRANSFORMER, Named, Vocabulary, named
from weights.released_layout import links_from_release, same_link
from weights.shards import read_shards
from weights.weight_files import DIFFUSERS, TRANSFORMERS, find_weights, has_shards

COPY_PORTIONS = 16  # portions of a copy; more of them need less memory beside the model, but each maps the files again
LEAST_PORTION = 4_000_000  # bytes: a small model is not worth many mappings
WIDENED_PORTIONS = 64  # where tensors are not copied from the mapping but widened in memory
SHARED = ("shared.weight", "encoder.embed_tokens.weight")

Open = Callable[[Container[str] | None], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Weights:
    """The tensors of a file or folder, not yet read.

    `open` maps the tensors of the given names on disk (None: all) and returns them by these; `stored` has them on the
    meta device. `named` has those of the part without prefixes; `links`, by name in this project's layout, say which of
    them make up each tensor. `said` is what was recognised beside the plain layout.
    """

    source: Path
    files: Sequence[Path]
    open: Open
    stored: Mapping[str, Tensor]
    named: Named
    links: Mapping[str, Link]
    said: Sequence[str] = ()

    @cached_property
    def shapes(self) -> dict[str, Tensor]:
        """The tensors by name in this project's layout, on the meta device; no data is read."""
        return _made(self.links.values(), self._widened(self.stored))

    @cached_property
    def widened(self) -> bool:
        """True if tensors are stored in float8."""
        return any(tensor.dtype in fp8.FLOAT8 for tensor in self.stored.values())

    @property
    def described(self) -> str:
        """A clause that says what was recognised; "" for the plain layout."""
        return f" ({'; '.join(self.said)})" if self.said else ""

    def read(self) -> dict[str, Tensor]:
        """Return all tensors by name in this project's layout: memory-mapped, or made in memory from several.

        Those stored in float8 become bfloat16. Raises CheckpointError for a file whose checksums are wrong, and for
        values that are not finite.
        """
        return dict(self.lazily())

    def lazily(self) -> Mapping[str, Tensor]:
        """Return what `read` does, as a mapping that makes a tensor whenever it is asked for."""
        self._verify()
        return Lazily(self, self._widened(self.open(None)))

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype in which `read` returns a tensor."""
        return fp8.WIDE if self.is_widened(name) else self.shapes[name].dtype

    def is_mapped(self, name: str) -> bool:
        """Return True if `read` returns a tensor that lies in the mapped file, so that it takes no memory."""
        return len(self.links[name].theirs) == 1 and not self.is_widened(name)

    def is_widened(self, name: str) -> bool:
        """Return True if a tensor, or a part of it, is stored in float8."""
        return any(self.stored[self.named.theirs[part]].dtype in fp8.FLOAT8 for part in self.links[name].theirs)

    def copy_into(self, module: nn.Module) -> None:
        """Copy the tensors into a module of the same names and shapes, converting to its dtype and device.

        Raises CheckpointError for a file whose checksums are wrong, and for values that are not finite.
        """
        self._verify()
        own = module.state_dict()
        own |= without_lora(own)
        for portion in self._portions():
            state = self._widened(self.open(self._on_disk(portion)))
            module.load_state_dict(_made(portion, state), strict=False)
            check_finite({link.name: own[link.name] for link in portion if link.name in own}, self.source)
            del state

    def _widened(self, stored: Mapping[str, Tensor]) -> Widened:
        return Widened(stored, self.named.theirs, self.source)

    def _on_disk(self, links: Iterable[Link]) -> set[str]:
        parts = {part for link in links for part in link.theirs}
        scales = {scale for scale in (fp8.scale_of(part, self.named.theirs) for part in parts) if scale}
        return {self.named.theirs[part] for part in parts | scales}

    def _verify(self) -> None:
        for file in self.files:
            if format_of(file) == TORCH:
                check_sums(file)

    def _portions(self) -> Iterator[list[Link]]:
        portions = WIDENED_PORTIONS if self.widened else COPY_PORTIONS
        most = max(sum(shape.nbytes for shape in self.shapes.values()) / portions, LEAST_PORTION)
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


class Lazily(Mapping[str, Tensor]):
    """The tensors of `weights` by name in this project's layout, each made from `state` whenever it is asked for."""

    def __init__(self, weights: Weights, state: Mapping[str, Tensor]):
        self.weights, self.state = weights, state

    def __getitem__(self, name: str) -> Tensor:
        link = self.weights.links[name]
        tensor = link.merge(*(self.state[part] for part in link.theirs))
        check_finite({name: tensor}, self.weights.source)
        return tensor.to(fp8.WIDE) if self.weights.is_widened(name) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights.links)

    def __len__(self) -> int:
        return len(self.weights.links)


def transformer_weights(path: str | Path) -> Weights:
    """Return a transformer's weights from a checkpoint of any layout, diffusers' transformer/ or a pipeline folder.

    A whole model's checkpoint gives only the transformer; a LoRA keeps its names. Raises CheckpointError if the file is
    missing, damaged, something else or of another part.
    """
    source, files = _found(path, "transformer")
    open_, state = _opened(files)
    if any("lora_" in name for name in state):
        unchanged = {name: same_link(name) for name in state}
        return Weights(source, files, open_, state, Named({name: name for name in state}), unchanged)
    found, said = _named(state, TRANSFORMER, source)
    own = {name: state[found.theirs[name]] for name in fp8.without_scales(found.theirs)}
    theirs = is_diffusers_transformer(own)
    links = links_from_diffusers(own) if theirs else links_from_release(own)
    return Weights(source, files, open_, state, found, {link.name: link for link in links},
                   [*(["diffusers' layout"] if theirs else []), *said])


def autoencoder_weights(path: str | Path, names: Iterable[str], levels: int, ignore: Iterable[str] = ()) -> Weights:
    """Return an autoencoder's weights from a checkpoint, diffusers' vae/ or a pipeline folder.

    `names` are the autoencoder's tensors, `levels` its number of resolutions. Tensors whose name starts with one of
    `ignore` are left out. Raises CheckpointError if the file is missing, damaged, something else or of another part.
    """
    source, files = _found(path, "vae")
    open_, state = _opened(files)
    found, said = _named(state, AUTOENCODER, source)
    own = [name for name in fp8.without_scales(found.theirs) if not name.startswith(tuple(ignore))]
    links = {link.name: link for link in vae_links(names, levels)
             if link.theirs[0] in own and link.name not in own}
    moved = {link.theirs[0] for link in links.values()}
    said = [*(["diffusers' layout"] if links else []), *said]
    links |= {name: same_link(name) for name in own if name not in moved}
    return Weights(source, files, open_, state, found, links, said)


def text_encoder_weights(source: Path, files: Sequence[Path], ignore: Iterable[str] = ()) -> Weights:
    """Return the weights of a T5 encoder in the names of Hugging Face, stored in `files`; `source` is for messages.

    Tensors whose name starts with one of `ignore` are left out.
    """
    open_, state = _opened(files)
    found, said = _named(state, TEXT_ENCODER, source)
    links = {name: same_link(name) for name in fp8.without_scales(found.theirs) if not name.startswith(tuple(ignore))}
    for name, other in (SHARED, SHARED[::-1]):  # one matrix with two names; files hold one or both
        if name in links:
            links.setdefault(other, Link(other, (name,)))
    return Weights(source, files, open_, state, found, links, said)


def materialize(module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Allocate memory for a module on the meta device; its content is arbitrary until weights are copied into it."""
    module.to(dtype).to_empty(device=device)


def _named(state: Mapping[str, Tensor], vocabulary: Vocabulary, source: Path) -> tuple[Named, list[str]]:
    """Return a part's tensors among those of a file, and what is to be said of them."""
    found = named(state, vocabulary, source)
    own = {name: state[theirs] for name, theirs in found.theirs.items()}
    fp8.check_quantized(own, source)
    return found, [*fp8.described(own), *found.described]


def _made(links: Iterable[Link], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {link.name: link.merge(*(state[part] for part in link.theirs)) for link in links}


def _found(path: str | Path, part: str) -> tuple[Path, list[Path]]:
    """Return the diffusers folder of a part and its files, or else what the path names: a checkpoint's file, or shards.
    """
    folder = part_folder(path, part)
    if folder is None and has_shards(Path(path), TRANSFORMERS):
        return Path(path), find_weights(Path(path), TRANSFORMERS)
    if folder is None:
        file = find_checkpoint(path)
        return file, [file]
    check_part(folder, part)
    return folder, find_weights(folder, DIFFUSERS)


def _opened(files: Sequence[Path]) -> tuple[Open, dict[str, Tensor]]:
    """Return a function that maps the tensors of files, and all of them on the meta device."""
    if any(format_of(file) == OLD_TORCH for file in files):  # it cannot be memory-mapped: read once
        content = read_shards(files)
        return lambda names: content, _on_meta(content)
    return lambda names: read_shards(files, names), _on_meta(read_shards(files))


def _on_meta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("meta") for name, tensor in state.items()}
