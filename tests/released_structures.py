"""Small models of the five released structures and the autoencoder, and comparison with diffusers' models."""
import torch

from configuration.targets import instantiate_from_config
from tests.dit_models import ROTARY, SINCOS, TEXT, config, inputs

TOLERANCE = 1e-5  # relative to the largest value; kernels sum products in different orders
LEARNED = {"target": ROTARY["target"], "params": ROTARY["params"] | {"learnable_pos_embed": True}}
INTERPOLATED = {"height_interpolation": 1.875, "width_interpolation": 1.875}
STRUCTURES = {
    "2b": dict(positions={"target": SINCOS["target"], "params": SINCOS["params"] | INTERPOLATED}),
    "5b": dict(),
    "5b_i2v": dict(positions=LEARNED, in_channels=8),
    "1.5": dict(patch_size=[2, 2, 2]),
    "1.5_i2v": dict(patch_size=[2, 2, 2], in_channels=8, ofs_embed_dim=32),
}
VAE = {"double_z": True, "z_channels": 4, "ch": 32, "ch_mult": [1, 2, 2, 4], "num_res_blocks": 1}


def structure_of(name):
    """Return the arguments of `tests.dit_models.config` and `build` for one of STRUCTURES."""
    return {"num_frames": 13 if "1.5" in name else 9} | STRUCTURES[name]


def model_config(name):
    """Return the parts of a `model` section that determine its weights."""
    return {"network_config": config(**structure_of(name)), "first_stage_config": first_stage(), "scale_factor": 0.7}


def first_stage():
    """Return the configuration of a small autoencoder."""
    part = "vae_modules.cp_enc_dec.ContextParallel{}3D"
    return {"target": "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper", "params": {
        "regularizer_config": {"target": "vae_modules.regularizers.DiagonalGaussianRegularizer"},
        "encoder_config": {"target": part.format("Encoder"), "params": VAE},
        "decoder_config": {"target": part.format("Decoder"), "params": VAE}}}


def random_vae():
    """Return a small autoencoder whose norms and biases are random, too."""
    torch.manual_seed(3)
    vae = instantiate_from_config(first_stage()).eval()
    with torch.no_grad():
        for p in vae.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    return vae


@torch.no_grad()
def both_predictions(model, other, name):
    """Return the outputs of this project's transformer and of diffusers' for the same input."""
    other.norm_out.norm.eps = 1e-6  # diffusers takes 1e-5; the released models were trained with 1e-6
    latents = (4 if "1.5" in name else 3, 8 if "i2v" in name else 4, 6, 8)
    x, t, text = inputs(latent=latents)
    ofs = torch.full((1,), 2.0) if name == "1.5_i2v" else None
    rotation = None if name == "2b" else rotary(model, (latents[0] // model.patch_size[0], 3, 4))
    return model(x, t, text, ofs=ofs), other(x, text, t, ofs=ofs, image_rotary_emb=rotation, return_dict=False)[0]


def rotary(model, grid):
    """Return rotary cosines and sines as diffusers takes them: for video tokens only, each angle twice."""
    return tuple(x[TEXT:].repeat_interleave(2, dim=1) for x in model.mixins["pos_embed"].rotary(grid, TEXT, "cpu"))


def assert_same(mine, theirs):
    """Assert that two tensors are equal within TOLERANCE."""
    assert (mine - theirs).abs().max() < TOLERANCE * theirs.abs().max()


@torch.no_grad()
def assert_same_vae(vae, other):
    """Assert that both autoencoders decode alike, chunk by chunk, and encode alike."""
    vae.encode_in_chunks = True  # as diffusers does
    g = torch.Generator().manual_seed(0)
    z, x = torch.randn(1, 4, 5, 4, 6, generator=g), torch.rand(1, 3, 17, 32, 48, generator=g) * 2 - 1
    cache = None
    for mine, part in zip(vae.decode_chunks(z), (z[:, :, :3], z[:, :, 3:]), strict=True):
        theirs, cache = other.decoder(part, conv_cache=cache)
        assert_same(mine, theirs)
    assert_same(vae.encode(x, unregularized=True), other.encode(x).latent_dist.parameters)
