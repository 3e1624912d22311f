"""What clips and captions go through before training: told apart by files, built only where a cache lacks them."""
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from configuration.settings import Arguments, resolve_dtype
from configuration.targets import instantiate_from_config
from diffusion_video import build_codec
from engine.conditioner import GeneralConditioner
from engine.first_stage import first_stage_weights
from engine.text_encoder import T5Folder, check_t5_folder

HEAD = 1 << 20  # bytes at each end of a file of weights by which it is known: all of T5 XXL takes a minute to read
STAND_IN = "training.data.text_cache.EmbeddedText"


class Encoders:
    """The first stage and the text encoders of a configuration, on the run's device in its dtype."""

    def __init__(self, args: Arguments):
        self.args = args
        self.dtype = resolve_dtype(args.fp16, args.bf16)
        self.model = OmegaConf.to_container(args.model_config, resolve=True)

    @cached_property
    def vae(self) -> nn.Module:
        torch.manual_seed(self.args.seed)  # for one without weights of its own
        codec = build_codec(self.args)
        codec.save_memory(self.args)
        return codec.first_stage_model

    @cached_property
    def conditioner(self) -> GeneralConditioner:
        conditioner = instantiate_from_config(self.model["conditioner_config"])
        return conditioner.to(device=self.args.device, dtype=self.dtype)

    def describe_vae(self) -> dict:
        """What decides the latents of a clip, as plain values."""
        args, stored = self.args, first_stage_weights(self.model["first_stage_config"])
        weights = self.vae.encoder.state_dict() if stored is None else {
            name.removeprefix("encoder."): value for name, value in stored.read().items()
            if name.startswith("encoder.")}
        description = {"encoder": weights_digest(weights, self.dtype)} | self._precision()
        if args.vae_tiling:
            description["tiles"] = [args.vae_tile_size, args.vae_tile_overlap]
        return description | ({"encoding": "in chunks"} if args.vae_encode_in_chunks else {})

    def frozen_text(self) -> list[int]:
        """Which of `emb_models` give each caption the same embedding throughout training."""
        models = self.model["conditioner_config"]["params"]["emb_models"]
        return [i for i, model in enumerate(models)
                if model.get("input_key") == "txt" and not model.get("is_trainable")]

    def describe_text(self, number: int) -> dict:
        """What decides an embedding of `emb_models[number]`, as plain values."""
        model = self.model["conditioner_config"]["params"]["emb_models"][number]
        params = dict(model.get("params") or {})
        folder = params.pop("model_dir", None)
        params.pop("cache_dir", None)
        described = {"text encoder's parameters": json.dumps(params, sort_keys=True)} | self._precision()
        return described if folder is None or not Path(folder).is_dir() else (
            {"text encoder": _files_digest(check_t5_folder(folder))} | described)

    def without(self) -> Arguments:
        """The configuration of an engine that has neither: clips come as latents, captions are looked up."""
        model = json.loads(json.dumps(self.model))
        model["first_stage_config"] = {"target": "torch.nn.Identity"}
        for i in self.frozen_text():
            embedder = model["conditioner_config"]["params"]["emb_models"][i]
            embedder["target"], embedder["params"] = STAND_IN, {}
        return replace(self.args, config=OmegaConf.merge(self.args.config, {"model": None}, {"model": model}))

    def _precision(self) -> dict:
        return {} if self.dtype == torch.float32 else {"precision": str(self.dtype).removeprefix("torch.")}


def weights_digest(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Of names and values as they are in `dtype`. The sign of a zero does not count: averaging weights loses it."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        rounded = value.detach().float().to(dtype).float() + 0.0
        digest.update(name.encode() + rounded.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _files_digest(found: T5Folder) -> str:
    """Of the names, sizes and ends of the files that an encoder is read from."""
    digest = hashlib.sha256()
    folders = dict.fromkeys((found.encoder, found.tokenizer))  # often the same
    for file in (file for folder in folders for file in sorted(folder.iterdir())):
        if file.is_file() and file.suffix in (".json", ".model", ".safetensors", ".bin"):
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\n".encode())
            with open(file, "rb") as stream:
                digest.update(stream.read(HEAD))
                stream.seek(max(0, size - HEAD))
                digest.update(stream.read())
    return digest.hexdigest()
