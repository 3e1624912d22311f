"""A small autoencoder for the tests: 4x in time, 8x in space, random weights."""
import torch

from vae_modules.autoencoder import VideoAutoencodingEngine

PARAMS = {"ch": 16, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1, "z_channels": 4, "norm_groups": 4}


def config(loss: bool = False, encoder: dict | None = None, decoder: dict | None = None, **engine) -> dict:
    """Return the arguments of VideoAutoencodingEngine, with changes to its parts."""
    part = "vae_modules.cp_enc_dec.ContextParallel{}3D"
    parts = {
        "encoder_config": {"target": part.format("Encoder"), "params": PARAMS | (encoder or {})},
        "decoder_config": {"target": part.format("Decoder"), "params": PARAMS | (decoder or {})},
        "regularizer_config": {"target": "vae_modules.regularizers.DiagonalGaussianRegularizer"},
    }
    if loss:
        parts["loss_config"] = {"target": "vae_modules.losses.ReconstructionLoss", "params": {"kl_weight": 0.01}}
    return parts | engine


def build(seed: int = 0, **kwargs) -> VideoAutoencodingEngine:
    """Build the autoencoder with the random weights of a seed."""
    torch.manual_seed(seed)
    return VideoAutoencodingEngine(**config(**kwargs)).eval()


def video(frames: int = 9, height: int = 16, width: int = 24, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Return a random video (batch, 3, frames, height, width) in -1..1."""
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latent(frames: int, seed: int = 2) -> torch.Tensor:
    """Return a random latent of a 16 x 24 video."""
    return torch.randn(1, PARAMS["z_channels"], frames, 2, 3, generator=torch.Generator().manual_seed(seed))


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a random tensor of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
