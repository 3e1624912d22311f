"""The files of a T5 text encoder: where configuration, weights and tokenizer are, and whether they fit each other."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt
from pydantic import BaseModel, ValidationError
from torch import Tensor

from common.errors import CheckpointError, ConfigError, DataError
from common.text import read_text
from weights.checkpoint import SUFFIXES
from weights.diffusers_folder import is_pipeline
from weights.formats import stranger
from weights.sources import SHARED, Weights, text_encoder_weights
from weights.weight_files import TRANSFORMERS, find_weights

ENCODER, TOKENIZER = "text_encoder", "tokenizer"  # subfolders of a diffusers folder
DECODER = ("decoder.", "lm_head.")  # tensors of a whole T5 that are not loaded: only its encoder is used
CONFIG, VOCABULARIES = "config.json", ("spiece.model", "tokenizer.json")
PROBE = "the a of to in and is on it red blue circle square"  # every T5 knows one of these words
BLOCK = "encoder.block.0.layer."
Size = Annotated[int, Gt(0)] | None


@dataclass(frozen=True)
class T5Folder:
    """The folders of a text encoder: `encoder` with the weights, `tokenizer` with spiece.model or tokenizer.json.

    `file` is the file of weights if `model_dir` names one; otherwise they are found in `encoder`.
    """

    encoder: Path
    tokenizer: Path
    file: Path | None = None

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights. Raises CheckpointError if there are none."""
        return find_weights(self.encoder, TRANSFORMERS) if self.file is None else [self.file]


class T5Sizes(BaseModel, strict=True):
    """The entries of a T5's config.json that are read; sizes that it leaves out are those of transformers' T5Config."""

    model_type: str | None = None
    d_model: Annotated[int, Gt(0)]
    d_kv: Size = None
    d_ff: Size = None
    num_layers: Size = None
    num_heads: Size = None
    vocab_size: Size = None
    relative_attention_num_buckets: Size = None
    relative_attention_max_distance: Size = None
    layer_norm_epsilon: Annotated[float, Gt(0)] | None = None
    feed_forward_proj: str | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None


def check_t5_folder(model_dir: str | None, cache_dir: str | None = None) -> T5Folder:
    """Return the folders of a text encoder, after checking that its files exist, without reading the weights.

    Raises ConfigError or CheckpointError if anything is missing, or is something else.
    """
    if model_dir is None:
        raise ConfigError("the text encoder's model_dir is missing; set it to a T5 folder")
    path = Path(model_dir)
    if not path.exists() and cache_dir is not None:
        path = _in_hub_cache(model_dir, cache_dir)
    if not path.exists():
        raise ConfigError(f"T5 folder {model_dir} does not exist: put config.json, spiece.model and the weights there, "
                          "set model_dir of the text encoder to where they are, or name a whole diffusers folder as "
                          "args.load")
    found = _beside(path) if path.is_file() else _inside(path)
    tokenizers = [file for file in (found.tokenizer / name for name in VOCABULARIES) if file.is_file()]
    if not tokenizers:
        raise ConfigError(f"T5 folder {found.tokenizer} has no {' or '.join(VOCABULARIES)}: copy the whole folder of "
                          "the text encoder")
    for file in tokenizers:
        if what := stranger(file):
            raise ConfigError(f"{file} is {what}")
    found.weight_files  # noqa: B018  raises if there are none
    return found


def _inside(folder: Path) -> T5Folder:
    if is_pipeline(folder) or (folder / ENCODER).is_dir():
        found = T5Folder(folder / ENCODER, folder / TOKENIZER)
    else:
        found = T5Folder(folder, folder / TOKENIZER if _only_inside(folder, TOKENIZER) else folder)
    holds_weights = found.encoder.is_dir() and any(file.suffix in SUFFIXES for file in found.encoder.iterdir())
    if not (found.encoder / CONFIG).is_file() and not holds_weights:
        raise ConfigError(f"T5 folder {found.encoder} has no {CONFIG}: copy the whole folder of the text encoder")
    return found


def _beside(file: Path) -> T5Folder:
    """Return the folders for a single file of weights, whose configuration and tokenizer are beside it or below."""
    encoder = file.parent / ENCODER if _only_inside(file.parent, ENCODER, CONFIG) else file.parent
    tokenizer = file.parent / TOKENIZER if _only_inside(file.parent, TOKENIZER) else file.parent
    return T5Folder(encoder, tokenizer, file)


def _only_inside(folder: Path, part: str, *names: str) -> bool:
    """Return True if a subfolder has files of these names (without any: of a tokenizer's), but not the folder."""
    names = names or VOCABULARIES
    return (any((folder / part / name).is_file() for name in names)
            and not any((folder / name).is_file() for name in names))


def _in_hub_cache(name: str, cache_dir: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, cache_dir=cache_dir, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ConfigError(f"text encoder {name} is neither a folder nor in the hub cache {cache_dir}") from error


def t5_weights(folder: T5Folder) -> Weights:
    """Return the encoder's weights, not yet read. Raises CheckpointError if they are damaged or another model's."""
    files = folder.weight_files
    return text_encoder_weights(files[0] if len(files) == 1 else folder.encoder, files, ignore=DECODER)


def t5_parameters(folder: T5Folder) -> int:
    """Return the number of elements in the encoder's weights, without reading them."""
    return sum(shape.numel() for name, shape in t5_weights(folder).shapes.items() if name != SHARED[1])


def t5_config(folder: T5Folder) -> dict[str, Any]:
    """Return the encoder's sizes: those of config.json, or where there is none, those that its tensors have.

    Raises ConfigError for a file that is not of a T5, and CheckpointError for tensors that are not.
    """
    path = folder.encoder / CONFIG
    if not path.is_file():
        weights = t5_weights(folder)
        return _sizes_of(weights.shapes, weights.source)
    try:
        sizes = T5Sizes.model_validate_json(read_text(path)).model_dump(exclude_none=True)
    except (ValidationError, DataError) as error:
        raise ConfigError(f"{path} is not a T5 configuration; fetch it again") from error
    if sizes.pop("model_type", "t5") != "t5":
        raise ConfigError(f"{path} is the configuration of another model than T5; the released models take the encoder "
                          "of T5 v1.1 XXL")
    return sizes


def t5_width(folder: T5Folder) -> int:
    """Return the width of the encoder's text embeddings. Raises as `t5_config` does."""
    return t5_config(folder)["d_model"]


def _sizes_of(shapes: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    """Return the sizes of an encoder of T5 v1.1 or T5 with these tensors."""
    try:
        vocabulary, width = shapes[SHARED[0]].shape
        buckets, heads = shapes[BLOCK + "0.SelfAttention.relative_attention_bias.weight"].shape
        inner = shapes[BLOCK + "0.SelfAttention.q.weight"].shape[0]
        gated = BLOCK + "1.DenseReluDense.wi_0.weight" in shapes
        hidden = shapes[f"{BLOCK}1.DenseReluDense.wi{'_0' if gated else ''}.weight"].shape[0]
        layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.block."))
        sizes = {"d_model": width, "d_kv": inner // heads, "d_ff": hidden, "num_layers": layers, "num_heads": heads,
                 "vocab_size": vocabulary, "relative_attention_num_buckets": buckets}
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source} does not hold the encoder of a T5, and no {CONFIG} says what it holds; put "
                              f"{CONFIG} beside it, or give another file") from error
    return {**sizes, "feed_forward_proj": "gated-gelu" if gated else "relu"}


def check_vocabulary(folder: T5Folder) -> None:
    """Raise ConfigError if spiece.model is damaged, which transformers takes for a file of another library."""
    from sentencepiece import SentencePieceProcessor
    file = folder.tokenizer / VOCABULARIES[0]
    try:
        if file.is_file():
            SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{file} is damaged or no vocabulary of sentencepiece; fetch it again") from error


def check_tokenizer(tokenizer: Any, folder: T5Folder) -> None:
    """Raise ConfigError if a tokenizer knows no words, or is not the one of the encoder's embedding."""
    config = t5_config(folder)
    unknown, ids = tokenizer.unk_token_id, tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if not set(ids) - {unknown}:
        raise ConfigError(f"the tokenizer in {folder.tokenizer} knows no words; fetch it again")
    rows, highest = config.get("vocab_size", 32128), max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ConfigError(f"the tokenizer in {folder.tokenizer} has tokens up to number {highest}, but the text "
                          f"encoder in {folder.encoder} embeds {rows}; take the tokenizer of this text encoder")
    for what, default in (("pad", 0), ("eos", 1)):
        wanted, given = config.get(f"{what}_token_id", default), getattr(tokenizer, f"{what}_token_id")
        if given != wanted:
            raise ConfigError(f"the tokenizer in {folder.tokenizer} has {what} token {given}, but the text encoder in "
                              f"{folder.encoder} was trained with {wanted}; take the tokenizer of this text encoder")
