"""Text encoders, as embedders: modules that turn one entry of a batch into a conditioning tensor."""
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from common.errors import ConfigError
from common.kinds import Share, Size, Text
from common.meta import without_memory
from configuration.model import ModelConfig
from engine.t5_files import CONFIG, T5Folder, check_t5_folder, check_tokenizer, check_vocabulary, t5_config, t5_weights
from weights.checkpoint import check_shapes
from weights.sources import materialize

logger = logging.getLogger(__name__)


def _check_device(name: str) -> str:
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ValueError("it must be the name of a device, such as cpu") from error
    return name


DeviceName = Annotated[str, AfterValidator(_check_device)]


class AbstractEmbModel(nn.Module):
    """Base of the embedders; `GeneralConditioner` sets these attributes from its configuration.

    `ucg_rate` is the share of training rows whose embedding is zeroed (classifier-free guidance, arXiv 2207.12598).
    """

    is_trainable: bool = False
    ucg_rate: Share = 0.0
    input_key: Text = "txt"


class FrozenT5Embedder(AbstractEmbModel):
    """The encoder of T5 v1.1 (arXiv 1910.10683): maps prompts to (B, max_length, width), padding attended like text.

    `model_dir` is a Hugging Face folder (`config.json`, `spiece.model` or `tokenizer.json`, weights), a diffusers
    folder with `text_encoder/` and `tokenizer/` inside, or a file of weights with a tokenizer beside it; nothing is
    downloaded. With `cache_dir` a hub name is looked up in that hub cache. `device` is where the weights are loaded, in
    the dtype they are stored in; tokens are moved to the weights' current device. Raises ConfigError or CheckpointError
    if a file is missing or does not fit the others.
    """

    MAX_LENGTH = 77  # tokens, if the configuration does not say

    def __init__(self, model_dir: Text | None = None, device: DeviceName = "cpu", max_length: Size = MAX_LENGTH,
                 freeze: bool = True, cache_dir: Text | None = None):
        super().__init__()
        folder = check_t5_folder(model_dir, cache_dir)
        self.tokenizer = load_tokenizer(folder)
        self.transformer: Any = load_t5(folder, device)
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
    """Return the tokenizer of a text encoder. Raises ConfigError if it cannot be read or does not fit the encoder."""
    # Imported only now, because transformers takes seconds to import and the folder might be missing.
    from transformers import T5Tokenizer
    check_vocabulary(folder)
    try:
        tokenizer = T5Tokenizer.from_pretrained(folder.tokenizer)
    except Exception as error:  # of which type depends on the damage: those of tokenizers are bare Exceptions
        raise ConfigError(f"T5 folder {folder.tokenizer} cannot be read ({' '.join(str(error).split())[:200]}); "
                          "fetch it again") from error
    check_tokenizer(tokenizer, folder)
    return tokenizer


def load_t5(folder: T5Folder, device: torch.device | str) -> nn.Module:
    """Return the encoder of a T5 in the dtype its weights are stored in. Raises ConfigError or CheckpointError."""
    from transformers import T5Config, T5EncoderModel
    with without_memory():
        encoder = T5EncoderModel(T5Config(**t5_config(folder))).eval()
    weights = t5_weights(folder)
    check_shapes(encoder.state_dict(), weights.shapes, weights.source)
    materialize(encoder, next(weights.dtype_of(k) for k, w in weights.shapes.items() if w.is_floating_point()), device)
    encoder.tie_weights()
    weights.copy_into(encoder)
    if not (folder.encoder / CONFIG).is_file():
        logger.info("%s has no %s; the text encoder's sizes are those of its tensors", folder.encoder, CONFIG)
    if weights.said:
        logger.info("loaded the text encoder from %s%s", weights.source, weights.described)
    return encoder


def t5_configs(config: "ModelConfig") -> list[Mapping]:
    """Return `params` of the T5 encoders among the conditioner's embedders."""
    models = (config.conditioner_config.get("params") or {}).get("emb_models") or ()
    return [m.get("params") or {} for m in models if str(m.get("target")).endswith(FrozenT5Embedder.__name__)]


def t5_folder(embedder: Mapping) -> dict:
    """Return where an embedder's T5 is, as arguments of `check_t5_folder`."""
    return {key: embedder.get(key) for key in ("model_dir", "cache_dir")}
