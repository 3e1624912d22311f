"""The video transformer: hooks on SwissArmyTransformer's BaseModel over the joint tokens [text, video].

CogVideoX (Yang et al. 2024). Latents are (B, T, C, H, W), with an image latent already concatenated along the channels.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from common.compression import Compression
from common.cpu_operations import gelu_tanh
from common.errors import ConfigError
from common.kinds import AboveZero, Layers, Part, Positive, Size
from common.patches import Grid, parse_patch_size, patch_grid
from common.swiss_army import BaseModel, RMSNorm
from common.typed import Fields, shown
from common.unread import Unread
from configuration.targets import instantiate_from_config
from network import linears
from network.blocks import AdaLNMixin, FinalLayerMixin, ImagePatchEmbeddingMixin, MLPMixin, SwiGLUMixin
from network.compilation import CompiledNetwork
from network.context import VideoContext
from network.embedding import SinusoidMLP, label_embedding
from network.layer_runner import AllLayers, LayerRunner
from network.modulation import ModulatedNorm
from network.positions import (
    Basic2DPositionEmbeddingMixin,
    Basic3DPositionEmbeddingMixin,
    Rotary3DPositionEmbeddingMixin,
)
from network.rotary_axes import DIFFUSERS
from network.stack import TransformerArgs, VideoTransformer
from network.step_cache import leave_to_python
from parallel import groups
from weights.released_layout import modernize

__all__ = ["AdaLNMixin", "Basic2DPositionEmbeddingMixin", "Basic3DPositionEmbeddingMixin", "DiffusionTransformer",
           "FinalLayerMixin", "ImagePatchEmbeddingMixin", "Rotary3DPositionEmbeddingMixin", "SwiGLUMixin", "modernize"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Modules:
    """The parts of the transformer, each with `target` and `params`."""

    pos_embed_config: Part
    patch_embed_config: Part
    adaln_layer_config: Part
    final_layer_config: Part
    lora_config: Part | None = None


def _modernize_before_loading(module: nn.Module, state_dict: dict, prefix: str, *rest) -> None:
    modernize(state_dict, prefix)


class DiffusionTransformer(CompiledNetwork, BaseModel):
    """The network that a denoiser calls: predicts from latents, timesteps and text, in the latents' shape.

    patch_size: (t, h, w), or one number p for (1, p, p). latent_width, latent_height, num_frames (frames of the video)
    and time_compressed_rate give the largest video that has positions. modules: `{target, params}` of
    pos_embed_config, patch_embed_config, adaln_layer_config, final_layer_config and optionally lora_config.
    num_classes: None, a number of labels, "continuous", "timestep" or "sequential" (vectors of adm_in_channels).
    The interpolations of sin-cos positions can be set here or in pos_embed_config's params. dtype: of the weights.
    Raises ConfigError for values that do not fit together.
    """

    UNREAD: ClassVar = {"input_time": Unread("time enters by adaptive LayerNorm alone", ("adaln",)),
                        **{f"transformer_args.{key}": entry for key, entry in TransformerArgs.UNREAD.items()}}

    def __init__(self, transformer_args: Annotated[Mapping | None, Fields(TransformerArgs)], num_frames: Size,
                 time_compressed_rate: Positive, latent_width: Size, latent_height: Size,
                 patch_size: Positive | Sequence[Positive], in_channels: Size, out_channels: Size,
                 hidden_size: Size, num_layers: Layers, num_attention_heads: Size,
                 modules: Annotated[Mapping, Fields(Modules)], elementwise_affine: bool = True,
                 time_embed_dim: Size | None = None, ofs_embed_dim: Size | None = None,
                 num_classes: Size | Literal["continuous", "timestep", "sequential"] | None = None,
                 adm_in_channels: Size | None = None, input_time: Literal["adaln"] = "adaln",
                 parallel_output: bool = True, height_interpolation: AboveZero | None = None,
                 width_interpolation: AboveZero | None = None, time_interpolation: AboveZero | None = None,
                 use_SwiGLU: bool = False, use_RMSNorm: bool = False,
                 dtype: Literal["fp32", "fp16", "bf16"] | torch.dtype = "fp32"):
        parts, args = Modules(**modules), TransformerArgs(**(transformer_args or {}))
        weights_dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
        if hidden_size % num_attention_heads:
            raise ConfigError(f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}")
        groups.initialize(max(args.model_parallel_size, groups.model_parallel_size()))
        super().__init__(None, VideoTransformer(
            num_layers, hidden_size, num_attention_heads, args, parallel_output=parallel_output,
            layernorm=RMSNorm if use_RMSNorm else partial(ModulatedNorm, elementwise_affine=elementwise_affine),
            activation=F.silu if use_SwiGLU else gelu_tanh, dtype=weights_dtype))
        self.patch_size = parse_patch_size(patch_size)
        self.in_channels, self.hidden_size = in_channels, hidden_size
        self.layer_runner: LayerRunner = AllLayers()  # unless a forward pass is given another
        self._build_embeddings(time_embed_dim or hidden_size, ofs_embed_dim, num_classes, adm_in_channels)

        head_dim = hidden_size // num_attention_heads
        shared = dict(hidden_size=hidden_size, time_embed_dim=time_embed_dim or hidden_size,
                      elementwise_affine=elementwise_affine)
        frames = Compression(time=time_compressed_rate).latent_frames(num_frames)
        self._add_positions(parts.pos_embed_config, (frames, latent_height, latent_width), head_dim, dict(
            height_interpolation=height_interpolation, width_interpolation=width_interpolation,
            time_interpolation=time_interpolation))
        self._add("patch_embed", parts.patch_embed_config, hidden_size=hidden_size, in_channels=in_channels,
                  patch_size=self.patch_size)
        self._add("adaln_layer", parts.adaln_layer_config, **shared, num_layers=num_layers, hidden_size_head=head_dim)
        self._add("final_layer", parts.final_layer_config, **shared, patch_size=self.patch_size,
                  out_channels=out_channels)
        if use_SwiGLU:
            inner = self.transformer.layers[0].mlp.inner_hidden_size
            self.add_mixin("swiglu", SwiGLUMixin(num_layers, hidden_size, inner))
        else:
            self.add_mixin("mlp", MLPMixin())
        if parts.lora_config is not None:
            self._add("lora", parts.lora_config, layer_num=num_layers)
        linears.use_plain_linears(self)
        self.to(weights_dtype)
        self.register_load_state_dict_pre_hook(_modernize_before_loading)

    def _build_embeddings(self, time_dim: int, ofs_dim: int | None, num_classes: int | str | None,
                          adm_in_channels: int | None) -> None:
        if ofs_dim not in (None, time_dim):
            raise ConfigError(f"ofs_embed_dim {ofs_dim} differs from time_embed_dim {time_dim}, to which it is added")
        self.time_embed = SinusoidMLP(self.hidden_size, time_dim)
        self.ofs_embed = None if ofs_dim is None else SinusoidMLP(ofs_dim, ofs_dim)
        self.label_emb = None if num_classes is None else (
            label_embedding(num_classes, self.hidden_size, time_dim, adm_in_channels))

    def _add(self, name: str, part: Part, **sizes) -> None:
        for key, value in (part.get("params") or {}).items():
            own = tuple(value) if isinstance(value, list) else value
            if own != sizes.get(key, own):
                raise ConfigError(f"{name}_config.params.{key} is {shown(value)}, but the whole network makes it "
                                  f"{sizes[key]}; leave it out")
        self.add_mixin(name, instantiate_from_config(part, **sizes), reinit=True)

    def _add_positions(self, config: Part, latent: Grid, head_dim: int, interpolations: dict) -> None:
        """Add positions for a latent of (frames, height, width); as released, frames are not divided into patches."""
        frames, height, width = latent
        _, ph, pw = self.patch_size
        if height % ph or width % pw:
            raise ConfigError(f"latent_height {height}, latent_width {width} are not multiples of patch_size "
                              f"{ph}, {pw}")
        given = (config.get("params") or {})
        for name, value in list(interpolations.items()):
            if value is None:
                interpolations.pop(name)
            elif given.get(name, value) != value:
                raise ConfigError(f"{name} is {value} for the network, {given[name]} in pos_embed_config; set it once")
        if self.patch_size[0] > 1 and given.get("other_sizes") == DIFFUSERS:
            raise ConfigError("pos_embed_config.params.other_sizes: with patches of several latent frames the release "
                              "and diffusers have the same positions; leave it out")
        if given.get("hidden_size_head", head_dim) != head_dim:
            raise ConfigError(f"pos_embed_config.params.hidden_size_head: {given['hidden_size_head']} differs from "
                              f"hidden_size / num_attention_heads = {head_dim}")
        self._add("pos_embed", config, compressed_num_frames=frames, height=height // ph, width=width // pw,
                  hidden_size=self.hidden_size, **interpolations)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.time_embed.parameters()).dtype

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor, y: torch.Tensor | None = None,
                ofs: torch.Tensor | None = None, identity_attention: Sequence[int] = (),
                skip_attention: Sequence[int] = (), skip_layers: Sequence[int] = (),
                layer_runner: LayerRunner | None = None) -> torch.Tensor:
        """Predict from noisy latents x (B, T, C_in, H, W); returns (B, T, C_out, H, W) in x's dtype.

        timesteps: (B,), or (1,) if all rows share one, which is then embedded and modulated once; fractions are
        allowed. context: text (B or 1, N, text width). y: labels, for a model with num_classes. ofs: (B,) or (1,), for
        a model with ofs_embed_dim; others ignore it. identity_attention: layers in which every token attends to itself
        alone; skip_attention: that leave out their attention; skip_layers: that are left out whole. layer_runner: runs
        the layers in place of the network's own. Raises ConfigError for latents that do not fit the model.
        """
        if x.shape[2] != self.in_channels:
            raise ConfigError(f"latents of {x.shape[2]} channels, but the transformer's in_channels is "
                              f"{self.in_channels}; only an image-to-video model takes an image latent, and needs it")
        grid = patch_grid(x, self.patch_size)
        rotary = self.mixins["pos_embed"].rotary(grid, context.shape[1], x.device)
        time = self.embed(timesteps, y, ofs)
        batch = VideoContext(x.to(self.dtype), context.to(self.dtype), F.silu(time), grid, rotary,
                             tuple(identity_attention), tuple(skip_attention), tuple(skip_layers), time=time)
        run = self.layer_runner if layer_runner is None else layer_runner
        return super().forward(self, batch, run).to(x.dtype)

    def compile(self, *args, **kwargs) -> None:
        """Compile the whole network with torch.compile, whose arguments these are."""
        leave_to_python()
        self.transformer.hooks.update(self.hooks)  # as the first call does: after it, the second would compile again
        super().compile(*args, **kwargs)

    def compile_layers(self, backend: str = "inductor", dynamic: bool | None = None) -> None:
        """Compile the layers, but nothing else, with torch.compile; equal layers share the compiled code."""
        self.mixins["adaln_layer"].compile_layers(backend, dynamic)

    def embed(self, timesteps: torch.Tensor, y: torch.Tensor | None, ofs: torch.Tensor | None) -> torch.Tensor:
        """Return the time embedding with label and `ofs` added: (B, time_embed_dim), or one row if all are shared.

        Raises ValueError for labels that are missing or that the model does not take, and for a missing `ofs`.
        """
        if (y is None) != (self.label_emb is None):
            raise ValueError(f"labels y {'missing' if y is None else 'given'}: a model with num_classes needs them, "
                             "others take none")
        embedding = self.time_embed(timesteps)
        if y is not None and self.label_emb is not None:
            embedding = embedding + self.label_emb(y)
        if self.ofs_embed is not None:
            if ofs is None:
                raise ValueError("ofs is missing; a model with ofs_embed_dim needs it, 2.0 as in training")
            embedding = embedding + self.ofs_embed(ofs)
        return embedding
