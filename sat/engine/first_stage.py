"""The latent codec: conversion between videos and the scaled latents of a diffusion model, by the autoencoder."""
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.meta import without_memory
from configuration.model import ModelConfig
from configuration.settings import AutoencoderSettings, TrainingSettings
from configuration.targets import instantiate_from_config
from vae_modules.tiling import TILE_SIZE, Tiling
from weights.sources import Weights

CKPT_PATH = "model.first_stage_config.params.ckpt_path"


def make_tiling(settings: AutoencoderSettings) -> Tiling | None:
    """Return the tiles that the settings ask for, or None. Raises ConfigError for an impossible size or overlap."""
    if not settings.vae_tiling:
        usual = {key.name: key.default for key in fields(settings)}
        for key in ("vae_tile_size", "vae_tile_overlap"):
            if getattr(settings, key) != usual[key]:
                raise ConfigError(f"args.{key} has an effect only with args.vae_tiling; set that, or leave it out")
        return None
    return Tiling(settings.vae_tile_size or TILE_SIZE, settings.vae_tile_overlap)


def first_stage_weights(config: Mapping) -> Weights | None:
    """Return the weights that a first stage will load, checked but not read; None if its `ckpt_path` is None.

    Raises CheckpointError for weights that are missing, damaged or do not fit it.
    """
    params = config.get("params") or {}
    if params.get("ckpt_path") is None:
        return None
    with without_memory():
        first_stage = instantiate_from_config({**config, "params": {**params, "ckpt_path": None}})
    return first_stage.check_weights(params["ckpt_path"], params.get("ignore_keys", ()))


def is_random(config: Mapping) -> bool:
    """Return True if a first stage has weights, but names no file for them."""
    identity = str(config.get("target")).rpartition(".")[2] == nn.Identity.__name__
    return not identity and (config.get("params") or {}).get("ckpt_path") is None


def require_weights(config: Mapping) -> None:
    """Raise ConfigError if the weights of a first stage are random."""
    if is_random(config):
        raise ConfigError(f"{CKPT_PATH} is null; an autoencoder with random weights decodes to noise: set it to the "
                          "autoencoder's weights")


def samples_need_autoencoder(training: TrainingSettings, model: ModelConfig) -> bool:
    """Return True if training from a latent cache keeps the autoencoder all the same, for its samples."""
    encodes = model.noised_image_input or model.control_input
    return training.sample_interval is not None and (encodes or not training.only_log_video_latents)


class LatentCodec(nn.Module):
    """The autoencoder: converts videos (B, 3, T, H, W) in [-1, 1] to latents (B, C, t, h, w) and back.

    The latents are those of the VAE times `scale_factor`. `samples_at_a_time` limits how many rows the VAE processes
    together (None: all). `compiled` applies torch.compile.
    """

    def __init__(self, first_stage_config: Mapping, scale_factor: float = 1.0, disable_autocast: bool = True,
                 samples_at_a_time: int | None = None, compiled: bool = False):
        super().__init__()
        self.first_stage_model = instantiate_from_config(first_stage_config).eval().requires_grad_(False)
        if compiled:
            self.first_stage_model.compile_networks()
        self.scale_factor = scale_factor
        self.disable_autocast = disable_autocast
        self.samples_at_a_time = samples_at_a_time

    def configure_memory(self, settings: AutoencoderSettings) -> None:
        """Make the first stage work in tiles and chunks, as `args.vae_tiling` and `args.vae_encode_in_chunks` ask."""
        self.first_stage_model.tiling = make_tiling(settings)
        self.first_stage_model.encode_in_chunks = settings.vae_encode_in_chunks

    def train(self, mode: bool = True) -> "LatentCodec":
        """Set training mode for everything but the first stage, which is never trained here."""
        super().train(mode)
        self.first_stage_model.eval()
        return self

    @torch.no_grad()
    def encode_first_stage(self, x: Tensor, generator: torch.Generator | None = None,
                           sample_posterior: bool = True) -> Tensor:
        """Return the scaled latents of a video: a sample of the posterior, or its mean."""
        x = x.to(self._first_stage_dtype())
        with self._precision(x):
            parts = [self.first_stage_model.encode(part, generator=generator, sample_posterior=sample_posterior)
                     for part in x.split(self.samples_at_a_time or len(x))]
        return torch.cat(parts) * self.scale_factor

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Return the video of scaled latents, which must have no padding latents."""
        return torch.cat([torch.cat(list(self.decode_chunks(part)), dim=2)
                          for part in z.split(self.samples_at_a_time or len(z))])

    @torch.no_grad()
    def decode_chunks(self, z: Tensor) -> Iterator[Tensor]:
        """Yield the same video in chunks of time, so that one can be written while the next is computed."""
        z = (z / self.scale_factor).to(self._first_stage_dtype())
        with self._precision(z):
            yield from self.first_stage_model.decode_chunks(z)

    def decode_latents(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield the video of latents (B, T, C, h, w), the order in which they are sampled, in chunks of time."""
        return self.decode_chunks(latents.transpose(1, 2))

    def _first_stage_dtype(self) -> torch.dtype:
        return next(self.first_stage_model.parameters()).dtype

    def _precision(self, x: Tensor) -> AbstractContextManager:
        return torch.autocast(x.device.type, enabled=False) if self.disable_autocast else nullcontext()
