"""Small transformers for the tests, with every parameter redrawn, so that every term counts."""
import torch
from torch import nn

from configuration.targets import instantiate_from_config

TEXT, WIDTH, HEAD = 6, 24, 32
ROTARY = {"target": "dit_video_concat.Rotary3DPositionEmbeddingMixin",
          "params": {"text_length": TEXT, "hidden_size_head": HEAD}}
SINCOS = {"target": "dit_video_concat.Basic3DPositionEmbeddingMixin", "params": {"text_length": TEXT}}


def config(positions=ROTARY, qk_ln=True, transformer_args=None, extra_modules=None, **params):
    """Return the network configuration of a small transformer with the given position embedding and changes."""
    modules = {"pos_embed_config": positions,
               "patch_embed_config": {"target": "dit_video_concat.ImagePatchEmbeddingMixin",
                                      "params": {"text_hidden_size": WIDTH}},
               "adaln_layer_config": {"target": "dit_video_concat.AdaLNMixin", "params": {"qk_ln": qk_ln}},
               "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"}, **(extra_modules or {})}
    sizes = dict(time_embed_dim=32, elementwise_affine=True, num_frames=9, time_compressed_rate=4, latent_width=8,
                 latent_height=6, num_layers=2, patch_size=[1, 2, 2], in_channels=4, out_channels=4,
                 hidden_size=2 * HEAD, num_attention_heads=2)
    return {"target": "dit_video_concat.DiffusionTransformer",
            "params": {**sizes, **params, "modules": modules, "transformer_args": transformer_args or {}}}


def build(*args, seed=0, **kwargs):
    """Build a transformer of `config` and redraw every parameter, because a new one predicts zero."""
    torch.manual_seed(seed)
    model = instantiate_from_config(config(*args, **kwargs))
    for name, p in model.named_parameters():
        norm = "norm" in name and name.endswith("weight")
        nn.init.normal_(p, mean=float(norm), std=0.1 if p.dim() == 1 else p[0].numel() ** -0.5)
    return model.eval()


def inputs(batch=2, latent=(3, 4, 6, 8), seed=1):
    """Return random latents (batch, T, C, H, W), timesteps (batch,) and text embeddings for the transformer."""
    g = torch.Generator().manual_seed(seed)
    t, c, h, w = latent
    return (torch.randn(batch, t, c, h, w, generator=g), torch.rand(batch, generator=g) * 999,
            torch.randn(batch, TEXT, WIDTH, generator=g))
