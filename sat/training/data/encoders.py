"""The autoencoder and text encoders that a cache is made with: described by their files, built only when needed."""
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from common.tensors import dtype_name
from configuration.settings import Arguments
from configuration.targets import instantiate_from_config
from configuration.yaml_files import plain
from diffusion_video import build_codec
from engine.conditioner import GeneralConditioner
from engine.first_stage import first_stage_weights
from engine.t5_files import T5Folder, check_t5_folder

HEAD = 1 << 20  # bytes at each end of a file that its digest covers; reading all of T5 XXL takes a minute
STAND_IN = "engine.stored_text.EmbeddedText"


class Encoders:
    """The autoencoder and text encoders of a configuration, on the run's device in its dtype."""

    def __init__(self, args: Arguments):
        self.args = args
        self.dtype = args.run.dtype
        self.model = plain(args.model_config)

    @cached_property
    def vae(self) -> Any:
        torch.manual_seed(self.args.run.seed)  # for an autoencoder without stored weights
        codec = build_codec(self.args.of_engine())
        codec.configure_memory(self.args.autoencoder)
        return codec.first_stage_model

    @cached_property
    def conditioner(self) -> GeneralConditioner:
        conditioner = instantiate_from_config(self.model["conditioner_config"])
        return conditioner.to(device=self.args.run.device, dtype=self.dtype)

    def describe_vae(self) -> dict:
        """Return everything that determines the latents of a clip, as plain values."""
        args, stored = self.args, first_stage_weights(self.model["first_stage_config"])
        if stored is None:
            weights = self.vae.encoder.state_dict()
        else:
            weights = {name.removeprefix("encoder."): value for name, value in stored.read().items()
                       if name.startswith("encoder.")}
        description = {"encoder": weights_digest(weights, self.dtype)} | self._precision()
        if args.autoencoder.vae_tiling:
            description["tiles"] = [args.autoencoder.vae_tile_size, args.autoencoder.vae_tile_overlap]
        if args.autoencoder.vae_encode_in_chunks:
            description["encoding"] = "in chunks"
        return description

    def frozen_text(self) -> list[int]:
        """Return the indices in `emb_models` of the text encoders that are not trained."""
        models = self.model["conditioner_config"]["params"]["emb_models"]
        return [i for i, model in enumerate(models)
                if model.get("input_key") == "txt" and not model.get("is_trainable")]

    def describe_text(self, number: int) -> dict:
        """Return everything that determines a text embedding of `emb_models[number]`, as plain values."""
        model = self.model["conditioner_config"]["params"]["emb_models"][number]
        params = dict(model.get("params") or {})
        folder, cache_dir = params.pop("model_dir", None), params.pop("cache_dir", None)
        described = {"text encoder's parameters": json.dumps(params, sort_keys=True)} | self._precision()
        if folder is None:
            return described
        return {"text encoder": _files_digest(check_t5_folder(folder, cache_dir))} | described

    def without(self) -> Arguments:
        """Return the arguments for an engine without these encoders: it takes latents and looks text embeddings up."""
        model = json.loads(json.dumps(self.model))
        model["first_stage_config"] = {"target": "torch.nn.Identity"}
        for i in self.frozen_text():
            embedder = model["conditioner_config"]["params"]["emb_models"][i]
            embedder["target"], embedder["params"] = STAND_IN, {}
        config: Any = OmegaConf.merge(self.args.config, {"model": None}, {"model": model})
        return replace(self.args, config=config)

    def _precision(self) -> dict:
        return {} if self.dtype == torch.float32 else {"precision": dtype_name(self.dtype)}


def weights_digest(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Return a SHA-256 of names and values rounded to `dtype`; ignores the sign of zero, which averaging can lose."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        rounded = value.detach().float().to(dtype).float() + 0.0
        digest.update(name.encode() + rounded.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _files_digest(found: T5Folder) -> str:
    """Return a SHA-256 of the names, sizes, first and last bytes of the files that a text encoder is read from."""
    digest = hashlib.sha256()
    small = [file for folder in dict.fromkeys((found.encoder, found.tokenizer)) for file in folder.iterdir()
             if file.suffix in (".json", ".model") and file.is_file()]
    for file in sorted({*small, *found.weight_files}, key=lambda file: (file.name, str(file))):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\n".encode())
        with open(file, "rb") as stream:
            digest.update(stream.read(HEAD))
            stream.seek(max(0, size - HEAD))
            digest.update(stream.read())
    return digest.hexdigest()
