"""The names of a LoRA's tensors in other people's files, brought to those of this project.

Trainers disagree about the prefix of a layer's name, about the layers (diffusers' or the release's), about dots or
underscores, and about what A and B are called. Each name is taken apart once, here.
"""
import re
from collections.abc import Iterable
from typing import NamedTuple

from common.errors import CheckpointError
from common.listing import listed
from weights.diffusers_layout import TRANSFORMER_NAMES
from weights.lora_names import KINDS, layer_name

# Words before a layer's name, alone or stacked, with dots and underscores alike (`lora_unet_`, `base_model.model.`).
# No prefix is another one's beginning or end, so that a name can be read in one way only.
PREFIXES = ("base_model", "model", "diffusion_model", "module", "orig_mod", "transformer", "unet", "dit", "net", "lora")
LONGEST = 500  # characters of a name that can be a LoRA's
SUFFIXES = (
    r"(?P<layer>.+)\.matrix_(?P<matrix>[AB])\.(?P<part>\d+)",
    r"(?P<layer>.+?)\.lora_(?P<matrix>[ABab])(?:\.(?P<adapter>[^.]+))??(?:\.weight)?",
    r"(?P<layer>.+?)\.lora(?:_linear_layer)?[._](?P<matrix>down|up)(?:\.(?P<adapter>[^.]+))??\.weight",
    r"(?P<layer>.+?_lora)\.(?P<matrix>down|up)\.weight",  # diffusers' attention processors
    r"(?P<layer>.+?)\.(?:lora_|network_)?(?P<matrix>alpha)",
)
MATRIX_OF = {"a": "A", "down": "A", "b": "B", "up": "B", "alpha": "alpha"}
# What looks like a LoRA and computes something else, by a part of its tensors' names.
OTHER_KINDS = {
    "DoRA": r"lora_magnitude_vector|dora_scale", "LoHa": r"hada_[wt]\d", "LoKr": r"lokr_[wt]\d", "OFT": r"oft_",
    "IA3": r"ia3_|on_input", "LoCon of Tucker form": r"lora_mid", "a LoRA with biases": r"lora_\w+(\.\w+)?\.bias$",
    "AdaLoRA": r"\.(lora_E|ranknum)\b", "a LoRA on embeddings": r"lora_embedding_",
    "differences of whole weights": r"\.diff(_b)?$",
}
TEXT_ENCODER = re.compile(r"(base_model\.model\.)?(lora_te\d*_|text_encoder|text_model|lora_t5|te\d*\.)")


class Entry(NamedTuple):
    """The place of a tensor: its layer here, the part of the layer's stacked weight (None: all of it), and A, B or
    alpha."""

    layer: str
    part: int | None
    matrix: str


class Key(NamedTuple):
    """A tensor's name, taken apart: the layer as written, the part that it states, A, B or alpha, and the adapter."""

    layer: str
    part: int | None
    matrix: str
    adapter: str | None


def taken_apart(name: str) -> Key | None:
    """Return the parts of a tensor's name; None if it is not LoRA's."""
    for suffix in SUFFIXES if len(name) <= LONGEST else ():
        if match := re.fullmatch(suffix, name):
            found = match.groupdict()
            part = None if found.get("part") is None else int(found["part"])
            return Key(found["layer"], part, MATRIX_OF[found["matrix"].lower()], found.get("adapter"))
    return None


def is_lora(name: str) -> bool:
    """Return True for the name of a LoRA's tensor, in any spelling."""
    return taken_apart(name) is not None


def has_prefix(name: str) -> bool:
    """Return True unless a name starts with its block, as in the files that the release exports."""
    return not name.startswith("transformer_blocks.")


def entries(names: Iterable[str], source) -> tuple[dict[str, Entry], list[str]]:
    """Return the places of a LoRA's tensors by their names in a file, and the names that are not a LoRA's.

    Raises CheckpointError, naming them, for tensors of another kind of adapter, of a text encoder, of several
    adapters, and of layers that a LoRA cannot be on here.
    """
    names = list(names)
    keys = {name: key for name in names if (key := taken_apart(name)) is not None}
    _check_kind(names, source)
    adapters = sorted({key.adapter for key in keys.values() if key.adapter is not None})
    if len(adapters) > 1:
        raise CheckpointError(f"LoRA {source} holds {len(adapters)} adapters ({listed(adapters)}); save one alone, and "
                              "give several as several files")
    places = {name: place(key) for name, key in keys.items()}
    lost = sorted({keys[name].layer for name, entry in places.items() if entry is None})
    if lost:
        raise CheckpointError(f"LoRA {source} is on {len(lost)} layer(s) that the model lacks, or that cannot have a "
                              f"LoRA: {listed(lost)}; it can be on attention, MLP and modulations of the blocks")
    return {name: entry for name, entry in places.items() if entry}, [name for name in names if name not in keys]


def place(key: Key) -> Entry | None:
    """Return where a tensor belongs; None if no layer here has that name."""
    words = re.sub(r"[._]+", "_", key.layer).strip("_")
    words = re.sub(r"processor_(to_\w+)_lora$", r"\1", words)  # diffusers' attention processors
    words = re.sub(r"_to_out$", "_to_out_0", words)
    for pattern, kind, part in PLACES:
        if match := pattern.fullmatch(words):
            stated = key.part if part is None else part
            return Entry(layer_name(kind, int(match["i"])), stated, key.matrix)
    return None


def _check_kind(names: Iterable[str], source) -> None:
    names = list(names)
    for kind, pattern in OTHER_KINDS.items():
        if found := [name for name in names if re.search(pattern, name[:LONGEST])]:
            raise CheckpointError(f"LoRA {source} is {kind}, which is not supported ({len(found)} tensors: "
                                  f"{listed(found)}); give a plain LoRA, or weights that it is merged into")
    if found := [name for name in names if TEXT_ENCODER.match(name)]:
        raise CheckpointError(f"LoRA {source} is for the text encoder too ({len(found)} tensors: {listed(found)}); "
                              "only the transformer can have a LoRA; remove them from the file")


def _places() -> list[tuple[re.Pattern, str, int | None]]:
    """Return a pattern for each name of each kind, with dots as underscores, and the part that the name stands for."""
    prefix = rf"(?:(?:{'|'.join(PREFIXES)})_)*"
    places: list[tuple[re.Pattern, str, int | None]] = []

    def add(template: str, kind: str, part: int | None) -> None:
        words = re.escape(re.sub(r"[._]+", "_", template.replace("{i}", "@"))).replace("@", r"(?P<i>\d{1,6})")
        places.append((re.compile(prefix + words), kind, part))

    for kind, template in KINDS.items():
        add(template.removeprefix("transformer."), kind, None)  # the prefix may be there or not
        theirs = TRANSFORMER_NAMES[template]
        for part, name in enumerate(theirs):
            add(name, kind, part)
    return places


PLACES = _places()
