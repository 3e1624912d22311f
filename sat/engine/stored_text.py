"""Text embeddings in a file: made once where the text encoder fits, and used where it is not even on disk.

The file is safetensors: one tensor (max_length, width) for each text, named by its number. Its metadata have the
format, the list of texts, a digest of each tensor (missing in files of earlier versions), and the text encoder: a
digest of its files, max_length, width, dtype and quantization.
"""
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError, DataError, NumericalError, UserError
from common.files import whole_file
from common.listing import listed
from common.partial_files import clear_dead
from common.tensors import dtype_name
from configuration.model import ModelConfig
from configuration.settings import Arguments
from configuration.targets import check_config
from engine.t5_files import CONFIG, VOCABULARIES, T5Folder, check_t5_folder, t5_width
from engine.text_encoder import AbstractEmbModel, FrozenT5Embedder, t5_configs, t5_folder
from weights.identity import identity

FORMAT = "text embeddings 1"
AGAIN = "make it again with --save-text-embeddings"
ENCODER_KEYS = {"contents": str, "max_length": int, "width": int, "dtype": str, "quantized": str | None}
LONGEST = 60  # characters of a text in a message


class EmbeddedText(AbstractEmbModel):
    """A replacement for a text encoder in a conditioner; looks up each text's embedding (N, width) in `known`."""

    def __init__(self):
        super().__init__()
        self.known: Mapping[str, Tensor] = {}
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows the model's device and dtype

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.known[text] for text in texts]).to(self.place)


class StoredText(EmbeddedText):
    """A replacement for a text encoder, with the text embeddings of a file."""

    def __init__(self, file: str):
        super().__init__()
        self.known = TextFile.read(file)


@dataclass(frozen=True)
class TextFile(Mapping[str, Tensor]):
    """The text embeddings of a file, by text, each read when it is asked for; `encoder` describes what made them.

    `digests` are those of the tensors, in the order of the texts; none in a file of an earlier version.
    """

    path: Path
    texts: Mapping[str, int]
    encoder: Mapping[str, Any]
    digests: Sequence[str] = ()

    @classmethod
    def read(cls, path: str | Path) -> "TextFile":
        """Open a file that `write_text_file` wrote. Raises DataError for any other."""
        from safetensors import SafetensorError
        path = Path(path)
        if not path.is_file():
            raise DataError(f"there is no file of text embeddings {path}; {AGAIN}")
        try:
            with _opened(path) as opened:
                metadata = opened.metadata() or {}
                found = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} holds no text embeddings ({' '.join(str(error).split())[:120]}); {AGAIN}"
                            ) from error
        if metadata.get("format") != FORMAT:
            raise DataError(f"{path} holds no text embeddings; {AGAIN}")
        texts, encoder = _parsed(metadata)
        if texts is None or encoder is None or found != dict.fromkeys(
                map(str, range(len(texts))), [encoder["max_length"], encoder["width"]]):
            raise DataError(f"{path} is damaged: what its metadata say does not fit its tensors; {AGAIN}")
        digests = metadata.get("digests", "").split()
        if digests and len(digests) != len(texts):
            raise DataError(f"{path} is damaged: it has {len(digests)} digests of {len(texts)} texts; {AGAIN}")
        return cls(path, {text: number for number, text in enumerate(texts)}, encoder, digests)

    def __getitem__(self, text: str) -> Tensor:
        number = self.texts[text]
        with _opened(self.path) as opened:
            return opened.get_tensor(str(number))

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def missing(self, texts: Collection[str]) -> list[str]:
        """Return those texts that the file has no embeddings of."""
        return [text for text in texts if text not in self.texts]

    def check(self, texts: Collection[str]) -> None:
        """Raise DataError if a text is missing, or its embedding damaged or not finite."""
        missing = self.missing(texts)
        if missing:
            raise DataError(f"{self.path} has no text embeddings of {len(missing)} of {len(texts)} prompts: "
                            f"{listed(map(_short, missing))}; {AGAIN}, from these prompts")
        for text in texts:
            self._check_one(text)

    def is_sound(self, text: str) -> bool:
        """Return True if the embedding of a text is finite and the one that was written."""
        try:
            self._check_one(text)
        except DataError:
            return False
        return True

    def _check_one(self, text: str) -> None:
        embedding = self[text]
        if not embedding.is_floating_point() or not torch.isfinite(embedding).all():
            raise DataError(f"{self.path}: the text embedding of {_short(text)} is not finite; {AGAIN}")
        if self.digests and _digest(embedding) != self.digests[self.texts[text]]:
            raise DataError(f"{self.path} is damaged: the text embedding of {_short(text)} is not the one that was "
                            f"written; {AGAIN}")


def write_text_file(path: Path, embeddings: Mapping[str, Tensor], encoder: Mapping[str, Any]) -> None:
    """Write text embeddings (max_length, width) by text. Raises NumericalError if one is not finite."""
    from safetensors.torch import save_file
    for text, embedding in embeddings.items():
        if not torch.isfinite(embedding).all():
            raise NumericalError(f"the text embedding of {_short(text)} is not finite; encode in a wider dtype (bf16 "
                                 "or fp32)")
    tensors = {str(number): embedding.cpu().contiguous() for number, embedding in enumerate(embeddings.values())}
    metadata = {"format": FORMAT, "texts": json.dumps(list(embeddings)), "encoder": json.dumps(dict(encoder)),
                "digests": " ".join(map(_digest, tensors.values()))}
    clear_dead(path)
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata=metadata)


def describe_encoder(embedder: Mapping, args: Arguments) -> dict[str, Any]:
    """Return what the text embeddings of a run depend on beside the texts, from the `params` of its T5."""
    folder = check_t5_folder(**t5_folder(embedder))
    return {"contents": t5_identity(folder), "max_length": _max_length(embedder),
            "width": t5_width(folder), "dtype": dtype_name(args.run.dtype),
            "quantized": args.memory.quantize_t5}


def t5_identity(folder: T5Folder) -> str:
    """Return a digest of a text encoder's weights, sizes and vocabulary, wherever they are kept."""
    small = [folder.encoder / CONFIG, *(folder.tokenizer / name for name in VOCABULARIES)]
    return identity(*folder.weight_files, *(file for file in small if file.is_file()))


def use_text_file(model: MutableMapping, path: str) -> None:
    """Replace the text encoder of a `model` section by the text embeddings of a file, in place.

    Raises ConfigError or DataError if the file is of another text encoder, or if the model does not have one T5.
    """
    embedder, stored = only_t5(model), TextFile.read(path)
    modules = model["network_config"]["params"]["modules"]
    positions, patches = (modules[part].get("params") or {} for part in ("pos_embed_config", "patch_embed_config"))
    for what, wanted, key in (("tokens", _max_length(embedder), "max_length"),
                              ("tokens", positions.get("text_length"), "max_length"),
                              ("wide", patches.get("text_hidden_size"), "width")):
        if wanted is not None and stored.encoder[key] != wanted:
            raise ConfigError(f"{path} is of another text encoder: its text embeddings are {stored.encoder[key]} "
                              f"{what}, the model's {wanted}; {AGAIN}")
    try:
        folder = check_t5_folder(**t5_folder(embedder))
    except UserError:
        folder = None  # not needed
    if folder is not None and t5_identity(folder) != stored.encoder["contents"]:
        raise ConfigError(f"{path} was made by another text encoder than {folder.encoder}; {AGAIN}, or set model_dir "
                          "of the text encoder to null if the one that made it is meant")
    (config,) = model["conditioner_config"]["params"]["emb_models"]
    config["target"] = f"{StoredText.__module__}.{StoredText.__name__}"
    config["params"] = {"file": path}


def only_t5(model: Mapping) -> Mapping:
    """Return the `params` of the T5 that is a model's only embedder. Raises ConfigError if it has others."""
    config = ModelConfig.read(model)
    check_config({key: part for key, part in vars(config).items() if key.endswith("_config")}, "model")
    found = t5_configs(config)
    if len(found) != 1 or len(config.conditioner_config["params"]["emb_models"]) != 1:
        raise ConfigError("stored text embeddings need a model whose only embedder is a T5; leave --text-embeddings "
                          "and --save-text-embeddings out")
    return found[0]


def stored_file(model: ModelConfig) -> TextFile | None:
    """Return the file of text embeddings that a model uses, None if it uses none."""
    for embedder in (model.conditioner_config.get("params") or {}).get("emb_models") or ():
        if str(embedder.get("target")).endswith(f".{StoredText.__name__}"):
            return TextFile.read(embedder["params"]["file"])
    return None


def _parsed(metadata: Mapping[str, str]) -> tuple[list[str] | None, dict[str, Any] | None]:
    """Return the texts and the text encoder of a file's metadata, None for what is malformed."""
    try:
        texts, encoder = json.loads(metadata["texts"]), json.loads(metadata["encoder"])
    except (KeyError, ValueError, RecursionError):
        return None, None
    whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts) and len({*texts}) == len(texts)
    known = isinstance(encoder, dict) and encoder.keys() == ENCODER_KEYS.keys() and all(
        isinstance(encoder[key], kind) for key, kind in ENCODER_KEYS.items())
    return texts if whole else None, encoder if known else None


def _max_length(embedder: Mapping) -> int:
    return embedder.get("max_length", FrozenT5Embedder.MAX_LENGTH)


def _opened(path: Path):
    from safetensors import safe_open
    return safe_open(path, framework="pt")


def _digest(embedding: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(embedding.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _short(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")
