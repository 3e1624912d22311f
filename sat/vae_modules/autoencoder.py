"""The video autoencoder: encoding and decoding of videos by chunks and tiles, and loading of its weights."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from common.kinds import Part, Steps, Text
from common.meta import without_memory
from configuration.targets import instantiate_from_config
from vae_modules.context_parallel import decode_parallel
from vae_modules.convolution import CausalState
from vae_modules.regularizers import DiagonalGaussian
from vae_modules.tiling import Tiling, by_tiles
from weights.checkpoint import check_shapes
from weights.sources import Weights, autoencoder_weights, materialize

logger = logging.getLogger(__name__)


def encode_schedule(frames: int, size: int = 8) -> list[int]:
    """Return the frames of each encoding chunk: `size`, with the remainder added to the first (17 -> 9, 8)."""
    later = max(frames // size - 1, 0)
    return [frames - size * later] + [size] * later


def decode_schedule(latent_frames: int) -> list[int]:
    """Return the latent frames of each decoding chunk: two, the remainder added to the first (13 -> 3, 2, 2, 2, 2, 2).

    GroupNorm sees one chunk at a time, so this schedule is part of the trained model. The first chunk has an odd length
    because its first latent frame stands for a single frame. Raises ValueError for an even count.
    """
    if latent_frames < 1 or latent_frames % 2 == 0:
        raise ValueError(f"{latent_frames} latent frames cannot be decoded: an odd count is needed "
                         "(drop the padding latent of temporally patched models first)")
    if latent_frames == 1:
        return [1]
    return [3] + [2] * ((latent_frames - 3) // 2)


class VideoAutoencodingEngine(nn.Module):
    """The autoencoder: encoder, regularizer and decoder.

    Videos are (B, 3, T, H, W) in [-1, 1], T = 4 k + 1, H and W multiples of 8. Two settings save memory, but let each
    GroupNorm see less at a time: `tiling` (None: off) divides height and width, and `encode_in_chunks` encodes eight
    frames at a time, as the decoder always decodes two latent frames. With `cp_size` above 1, that many processes
    decode a video together, and each gets all of its frames.
    """

    def __init__(self, *, encoder_config: Part, decoder_config: Part, regularizer_config: Part,
                 loss_config: Part | None = None, ckpt_path: Text | None = None, ignore_keys: Sequence[str] = (),
                 cp_size: Steps = 1):
        super().__init__()
        self.tiling: Tiling | None = None
        self.encode_in_chunks = False
        self.cp_size = cp_size
        device = torch.get_default_device()
        with without_memory() if ckpt_path is not None else nullcontext():  # the weights come from the checkpoint
            self.encoder = instantiate_from_config(encoder_config)
            self.decoder = instantiate_from_config(decoder_config)
            self.regularization = instantiate_from_config(regularizer_config)
            self.loss = instantiate_from_config(loss_config or {"target": "torch.nn.Identity"})
        if ckpt_path is not None:
            weights = self.check_weights(ckpt_path, ignore_keys)
            materialize(self, torch.float32, device)
            weights.copy_into(self)
            if weights.said:
                logger.info("loaded the autoencoder from %s%s", weights.source, weights.described)

    def check_weights(self, path: str, ignore_keys: Iterable[str] = ()) -> Weights:
        """Return the weights at `path`, whose names and shapes have been compared with this model's but not read.

        The path is a checkpoint (`{"state_dict": ...}` or bare), diffusers' vae/ folder, or a folder that holds it.
        Names that start with one of `ignore_keys` are ignored. Raises CheckpointError if the weights do not fit.
        """
        own = self.state_dict()
        weights = autoencoder_weights(path, own, len(self.decoder.up), ignore_keys)
        check_shapes(own, weights.shapes, weights.source)
        return weights

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the decoder's last layer."""
        return self.decoder.conv_out.conv.weight

    def compile_networks(self, backend: str = "inductor") -> None:
        """Compile encoder and decoder with torch.compile for the sizes they meet.

        There is one graph for a video's first chunk, and one or two for all later ones. Hooks stay outside of them.
        """
        for network in (self.encoder, self.decoder):
            network.forward = torch.compile(network.forward, backend=backend, dynamic=False)

    def encode(self, x: Tensor, unregularized: bool = False, generator: torch.Generator | None = None,
               sample_posterior: bool = True) -> Tensor:
        """Return the latent (B, z, k + 1, H / 8, W / 8) of a video x: a draw from the posterior.

        Returns the mean without `sample_posterior`, and the moments themselves (twice the channels) with
        `unregularized`. Raises ValueError if x has unsuitable sizes.
        """
        self._check_size(x)
        moments = by_tiles(self._moments, x, self.tiling, latent=self.encoder.compression.space)
        if unregularized:
            return moments
        if not sample_posterior:
            return DiagonalGaussian.from_moments(moments).mean
        return self.regularization(moments, generator)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Return frames (B, 3, 4 (t - 1) + 1, 8 h, 8 w) of latents (B, z, t, h, w), t odd, by the trained chunks."""
        return torch.cat(list(self.decode_chunks(z)), dim=2)

    def decode_chunks(self, z: Tensor) -> Iterator[Tensor]:
        """Yield the frames of `decode` chunk by chunk, so that they can be written while the next are computed.

        With several tiles there is one chunk: each tile is decoded over all of time, so that only one tile's state is
        held.
        """
        if self.tiling is not None and any(len(spans) > 1 for spans in self.tiling.spans(*z.shape[-2:])):
            yield by_tiles(lambda tile: torch.cat(list(self._decoded(tile)), dim=2), z, self.tiling,
                           out=self.decoder.compression.space)
        else:
            yield from self._decoded(z)

    def _moments(self, x: Tensor) -> Tensor:
        size = max(8, self.encoder.compression.time)  # frames of whole latent frames
        chunks = x.split(encode_schedule(x.shape[2], size) if self.encode_in_chunks else x.shape[2], dim=2)
        return torch.cat(list(_in_turn(self.encoder, chunks, ends=True)), dim=2)

    def _decoded(self, z: Tensor) -> Iterator[Tensor]:
        chunks = z.split(decode_schedule(z.shape[2]), dim=2)
        if self.cp_size == 1:
            return _in_turn(self.decoder, chunks)
        return decode_parallel(self.decoder, chunks, self.cp_size)

    def _check_size(self, x: Tensor) -> None:
        frames, height, width = x.shape[2:]
        compression = self.encoder.compression
        if not compression.has_length(frames) or not compression.has_size(height, width):
            raise ValueError(f"a video of {frames} frames of {height} x {width} cannot be encoded: it needs "
                             f"{compression.time} k + 1 frames and sides in multiples of {compression.space}")


def _in_turn(network: nn.Module, chunks: Sequence[Tensor], ends: bool = False) -> Iterator[Tensor]:
    """Yield network(chunk) for each chunk in order, each given the state that the one before left.

    With `ends`, the last chunk leaves no state, so that a single chunk needs no memory for one; without, many chunks
    need no more memory than two.
    """
    past = CausalState()
    for index, chunk in enumerate(chunks):
        past = CausalState(past.after, closing=ends and index == len(chunks) - 1, overwrites=True)
        yield network(chunk, past)


class VideoAutoencoderInferenceWrapper(VideoAutoencodingEngine):
    """The name of the autoencoder in released configurations for sampling."""
