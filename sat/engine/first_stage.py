"""Between pixels and the latents that a diffusion model works on: the first stage and its scale."""
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from configuration.targets import instantiate_from_config
from vae_modules.tiling import TILE_SIZE, Tiling
from weights.sources import Weights


def tiling_of(args: Namespace) -> Tiling | None:
    """Raises ConfigError for tiles that cannot be."""
    return Tiling(args.vae_tile_size or TILE_SIZE, args.vae_tile_overlap) if args.vae_tiling else None


def first_stage_weights(config: Mapping) -> Weights | None:
    """The weights that a first stage will load, compared with it but not read; None for one that loads none.

    Raises CheckpointError for weights that are missing, damaged or do not fit.
    """
    params = config.get("params") or {}
    if params.get("ckpt_path") is None:
        return None
    with torch.device("meta"):
        first_stage = instantiate_from_config({**config, "params": {**params, "ckpt_path": None}})
    return first_stage.check_weights(params["ckpt_path"], params.get("ignore_keys", ()))


class LatentCodec(nn.Module):
    """Videos (B, 3, T, H, W) in [-1, 1] to latents (B, C, t, h, w) and back; latents are the VAE's x `scale_factor`.

    `samples_at_a_time` bounds how many rows of a batch the VAE sees together (None: all); `compiled`: torch.compile it.
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

    def save_memory(self, args: Namespace) -> None:
        """Divides the first stage's work as `args.vae_tiling` and `args.vae_encode_in_chunks` say."""
        self.first_stage_model.tiling = tiling_of(args)
        self.first_stage_model.encode_in_chunks = args.vae_encode_in_chunks

    def train(self, mode: bool = True) -> "LatentCodec":
        """The first stage is never trained here and stays in evaluation mode."""
        super().train(mode)
        self.first_stage_model.eval()
        return self

    @torch.no_grad()
    def encode_first_stage(self, x: Tensor, generator: torch.Generator | None = None,
                           sample_posterior: bool = True) -> Tensor:
        """Scaled latents of a video; a draw from the posterior, or its mean."""
        x = x.to(self._first_stage_dtype())
        with self._precision(x):
            parts = [self.first_stage_model.encode(part, generator=generator, sample_posterior=sample_posterior)
                     for part in x.split(self.samples_at_a_time or len(x))]
        return torch.cat(parts) * self.scale_factor

    @torch.no_grad()
    def decode_first_stage(self, z: Tensor) -> Tensor:
        """The video of scaled latents, padding latents dropped before."""
        return torch.cat([torch.cat(list(self.decode_chunks(part)), dim=2)
                          for part in z.split(self.samples_at_a_time or len(z))])

    @torch.no_grad()
    def decode_chunks(self, z: Tensor) -> Iterator[Tensor]:
        """The same video as consecutive pieces along time, each ready to be written while the next is computed."""
        z = (z / self.scale_factor).to(self._first_stage_dtype())
        with self._precision(z):
            yield from self.first_stage_model.decode_chunks(z)

    def _first_stage_dtype(self) -> torch.dtype:
        return next(self.first_stage_model.parameters()).dtype

    def _precision(self, x: Tensor) -> AbstractContextManager:
        return torch.autocast(x.device.type, enabled=False) if self.disable_autocast else nullcontext()
