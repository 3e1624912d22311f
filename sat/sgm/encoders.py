"""Text encoders. An embedder turns one entry of a batch into a conditioning tensor, keyed later by its rank."""
import json
from collections.abc import Sequence
from pathlib import Path

from errors import ConfigError
from torch import Tensor, nn

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class AbstractEmbModel(nn.Module):
    """What `GeneralConditioner` needs of an embedder beside `forward`; the conditioner sets these from its YAML entry.

    `ucg_rate` is the share of training examples whose embedding is zeroed (classifier-free guidance, arXiv 2207.12598).
    """

    is_trainable: bool = False
    ucg_rate: float = 0.0
    input_key: str = "txt"


class FrozenT5Embedder(AbstractEmbModel):
    """The encoder of T5 v1.1 (arXiv 1910.10683): prompts to (B, max_length, width), padding attended like text.

    `model_dir` is a Hugging Face folder (`config.json`, `spiece.model`, safetensors); nothing is downloaded. With
    `cache_dir` a hub name is looked up in that hub cache. `device` is where the weights are put at first; tokens
    always follow them. Raises ConfigError for a folder that is missing or incomplete.
    """

    def __init__(self, model_dir: str | None = None, device: str = "cpu", max_length: int = 77,
                 freeze: bool = True, cache_dir: str | None = None):
        super().__init__()
        folder = check_t5_folder(model_dir, cache_dir)
        # transformers takes seconds to import, and a folder that is missing should not cost them.
        from transformers import T5EncoderModel, T5Tokenizer
        try:
            self.tokenizer = T5Tokenizer.from_pretrained(folder)
            self.transformer = T5EncoderModel.from_pretrained(folder).to(device)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"T5 folder {folder} cannot be read ({' '.join(str(error).split())[:200]}); "
                              "fetch it again") from error
        self.max_length = max_length
        if freeze:
            self.freeze()

    def freeze(self) -> None:
        self.transformer.eval().requires_grad_(False)

    def forward(self, text: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(text), truncation=True, max_length=self.max_length, padding="max_length",
                                return_tensors="pt")["input_ids"]
        weight = self.transformer.shared.weight
        # The released models were trained without an attention mask: padding takes part.
        return self.transformer(input_ids=tokens.to(weight.device)).last_hidden_state


def check_t5_folder(model_dir: str | None, cache_dir: str | None = None) -> Path:
    """The folder of a text encoder, its files looked for but not read. Raises ConfigError for what is missing."""
    if model_dir is None:
        raise ConfigError("the text encoder's model_dir is missing; set it to a T5 folder")
    folder = Path(model_dir)
    if not folder.is_dir() and cache_dir is not None:
        folder = _in_hub_cache(model_dir, cache_dir)
    if not folder.is_dir():
        raise ConfigError(f"T5 folder {model_dir} does not exist: put config.json, spiece.model and the weights there, "
                          "or set model_dir of the text encoder to where they are")
    for name in ("config.json", "spiece.model"):
        if not (folder / name).is_file():
            raise ConfigError(f"T5 folder {folder} has no {name}: copy the whole folder of the text encoder")
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise ConfigError(f"T5 folder {folder} has no weights ({WEIGHT_FILES[0]} or {WEIGHT_FILES[1]} with its shards)")
    return folder


def t5_width(folder: Path) -> int:
    """Numbers per token of the encoder in a folder, from its config.json."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["d_model"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{folder}/config.json is no T5 configuration; fetch the folder again") from error


def _in_hub_cache(name: str, cache_dir: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    try:
        return Path(snapshot_download(name, cache_dir=cache_dir, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ConfigError(f"text encoder {name} is neither a folder nor in the hub cache {cache_dir}") from error
