"""A diffusers pipeline folder of full size with random weights, written tensor by tensor."""
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from arguments import get_args
from common.files import from_repository, whole_folder
from tools.convert_weights import SHARD_BYTES, parts_of
from weights.diffusers_layout import to_diffusers
from weights.shards import STEM, write_tensors

T5_XXL: dict = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64, "vocab_size": 32128,
          "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_encoder_decoder": False,
          "use_cache": False, "tie_word_embeddings": False, "architectures": ["T5EncoderModel"]}
VOCABULARY = "checkpoints/tiny/t5/spiece.model"  # any will do: the encoder always computes max_length tokens


def t5_of_width(width: int) -> dict:
    """Return the configuration of T5 v1.1 XXL, or of a small encoder for text embeddings of another width."""
    small = {"d_model": width, "d_ff": 2 * width, "num_layers": 2, "num_heads": 2}
    return T5_XXL if width == T5_XXL["d_model"] else T5_XXL | small


def write_pipeline(folder: Path, preset: str, dtype: torch.dtype) -> None:
    """Write transformer, VAE, text encoder and tokenizer of a preset's sizes to a new folder, in diffusers' layout."""
    model = get_args(["--base", f"configs/{preset}.yaml"]).model_config
    t5 = t5_of_width(model["network_config"]["params"]["modules"]["patch_embed_config"]["params"]["text_hidden_size"])
    with whole_folder(folder) as target:
        for name, part in parts_of(model).items():
            links = [link for link in part.links if link.theirs]
            planned = {link.name: part.shapes[link.name].to(dtype) for link in links}
            drawn = to_diffusers(links, _Lazily(planned))
            write_tensors(target / name, dict(to_diffusers(links, planned)), drawn, SHARD_BYTES)
            _write_json(target / name / "config.json", part.config)
        with torch.device("meta"):
            encoder = T5EncoderModel(T5Config(**t5)).to(dtype).state_dict()
        shapes = {key: shape for key, shape in encoder.items() if key != "encoder.embed_tokens.weight"}
        write_tensors(target / "text_encoder", shapes, _every(shapes), shard_bytes=2 ** 40)
        (target / "text_encoder" / f"{STEM}.safetensors").rename(target / "text_encoder" / "model.safetensors")
        _write_json(target / "text_encoder" / "config.json", {"model_type": "t5", **t5})
        (target / "tokenizer").mkdir()
        shutil.copy(from_repository(VOCABULARY), target / "tokenizer" / "spiece.model")
        _write_json(target / "model_index.json", {"_class_name": "CogVideoXPipeline"})


class _Lazily(Mapping):
    """Random tensors of the given shapes, each drawn when it is asked for."""

    def __init__(self, shapes: Mapping[str, Tensor]):
        self._shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        return _drawn(name, self._shapes[name])

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _every(shapes: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    return ((name, _drawn(name, shape)) for name, shape in shapes.items())


def _drawn(name: str, shape: Tensor) -> Tensor:
    """Return values that keep the size of what a layer is given: matrices by their width, gains 1 and biases 0."""
    if shape.dim() > 1:
        return torch.empty(shape.shape, dtype=shape.dtype).normal_(std=shape[0].numel() ** -0.5)
    return torch.full(shape.shape, float("norm" in name and name.endswith("weight")), dtype=shape.dtype)


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(dict(content), indent=2, sort_keys=True) + "\n", encoding="utf-8")
