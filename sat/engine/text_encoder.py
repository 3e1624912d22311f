"""Text encoders, as embedders: modules that turn one entry of a batch into a conditioning tensor."""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.kinds import Share, Size, Text
from configuration.model import ModelConfig
from weights.checkpoint import check_shapes
from weights.diffusers_folder import is_pipeline
from weights.shards import shard_files
from weights.sources import SHARED, materialize, text_encoder_weights

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ENCODER, TOKENIZER = "text_encoder", "tokenizer"  # subfolders of a diffusers folder
DECODER = ("decoder.", "lm_head.")  # tensors of a whole T5 that are not loaded: only its encoder is used


@dataclass(frozen=True)
class T5Folder:
    """The folders of a text encoder: `encoder` with config.json and the weights, `tokenizer` with spiece.model."""

    encoder: Path
    tokenizer: Path


class AbstractEmbModel(nn.Module):
    """Base of the embedders; `GeneralConditioner` sets these attributes from its configuration.

    `ucg_rate` is the share of training rows whose embedding is zeroed (classifier-free guidance, arXiv 2207.12598).
    """

    is_trainable: bool = False
    ucg_rate: Share = 0.0
    input_key: Text = "txt"


class FrozenT5Embedder(AbstractEmbModel):
    """The encoder of T5 v1.1 (arXiv 1910.10683): maps prompts to (B, max_length, width), padding attended like text.

    `model_dir` is a Hugging Face folder (`config.json`, `spiece.model`, safetensors), or a diffusers folder with
    `text_encoder/` and `tokenizer/` inside; nothing is downloaded. With `cache_dir` a hub name is looked up in that hub
    cache. `device` is where the weights are loaded, in the dtype they are stored in; tokens are moved to the weights'
    current device. Raises ConfigError or CheckpointError if the folder is missing or incomplete.
    """

    MAX_LENGTH = 77  # tokens, if the configuration does not say

    def __init__(self, model_dir: Text | None = None, device: str = "cpu", max_length: Size = MAX_LENGTH,
                 freeze: bool = True, cache_dir: Text | None = None):
        super().__init__()
        folder = check_t5_folder(model_dir, cache_dir)
        self.tokenizer = load_tokenizer(folder)
        self.transformer: Any = load_t5(folder.encoder, device)
        self.max_length = max_length
        if freeze:
            self.freeze()

    def freeze(self) -> None:
        self.transformer.eval().requires_grad_(False)

    def forward(self, text: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(text), truncation=True, max_length=self.max_length, padding="max_length",
                                return_tensors="pt")["input_ids"]
        weight = self.transformer.shared.weight
        # Without an attention mask, as the released models were trained.
        return self.transformer(input_ids=tokens.to(weight.device)).last_hidden_state


def load_tokenizer(folder: T5Folder) -> Any:
    """Return the tokenizer of a text encoder. Raises ConfigError if it cannot be read."""
    # Imported only now, because transformers takes seconds to import and the folder might be missing.
    from transformers import T5Tokenizer
    try:
        return T5Tokenizer.from_pretrained(folder.tokenizer)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"T5 folder {folder.tokenizer} cannot be read ({' '.join(str(error).split())[:200]}); "
                          "fetch it again") from error


def load_t5(folder: Path, device: torch.device | str) -> nn.Module:
    """Return the encoder of a Hugging Face folder, in the dtype its weights are stored in. Raises CheckpointError."""
    from transformers import T5Config, T5EncoderModel
    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config.from_pretrained(folder)).eval()
    weights = text_encoder_weights(folder, shard_files(folder, WEIGHT_FILES), ignore=DECODER)
    check_shapes(encoder.state_dict(), weights.shapes, weights.source)
    materialize(encoder, next(w.dtype for w in weights.shapes.values() if w.is_floating_point()), device)
    encoder.tie_weights()
    weights.copy_into(encoder)
    return encoder


def check_t5_folder(model_dir: str | None, cache_dir: str | None = None) -> T5Folder:
    """Return the folders of a text encoder, after checking that its files exist, without reading the weights.

    Raises ConfigError or CheckpointError if anything is missing.
    """
    if model_dir is None:
        raise ConfigError("the text encoder's model_dir is missing; set it to a T5 folder")
    folder = Path(model_dir)
    if not folder.is_dir() and cache_dir is not None:
        folder = _in_hub_cache(model_dir, cache_dir)
    if not folder.is_dir():
        raise ConfigError(f"T5 folder {model_dir} does not exist: put config.json, spiece.model and the weights there, "
                          "or set model_dir of the text encoder to where they are")
    in_parts = is_pipeline(folder) or (folder / ENCODER).is_dir()
    found = T5Folder(folder / ENCODER, folder / TOKENIZER) if in_parts else T5Folder(folder, folder)
    for path in (found.encoder / "config.json", found.tokenizer / "spiece.model"):
        if not path.is_file():
            raise ConfigError(f"T5 folder {path.parent} has no {path.name}: copy the whole folder of the text encoder")
    shard_files(found.encoder, WEIGHT_FILES)
    return found


def t5_width(folder: T5Folder) -> int:
    """Return the width of the encoder's text embeddings, from its config.json. Raises ConfigError if it has none."""
    try:
        return json.loads((folder.encoder / "config.json").read_text(encoding="utf-8"))["d_model"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{folder.encoder}/config.json is not a T5 configuration; fetch it again") from error


def t5_parameters(folder: T5Folder) -> int:
    """Return the number of elements in the encoder's weights, without reading them."""
    weights = text_encoder_weights(folder.encoder, shard_files(folder.encoder, WEIGHT_FILES), ignore=DECODER)
    return sum(shape.numel() for name, shape in weights.shapes.items() if name != SHARED[1])


def _in_hub_cache(name: str, cache_dir: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, cache_dir=cache_dir, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ConfigError(f"text encoder {name} is neither a folder nor in the hub cache {cache_dir}") from error


def t5_configs(config: "ModelConfig") -> list[Mapping]:
    """Return `params` of the T5 encoders among the conditioner's embedders."""
    models = (config.conditioner_config.get("params") or {}).get("emb_models") or ()
    return [m.get("params") or {} for m in models if str(m.get("target")).endswith(FrozenT5Embedder.__name__)]


def t5_folder(embedder: Mapping) -> dict:
    """Return where an embedder's T5 is, as arguments of `check_t5_folder`."""
    return {key: embedder.get(key) for key in ("model_dir", "cache_dir")}
