"""Transformer hooks: patch embedding, expert adaptive LayerNorm, joint attention, SwiGLU and final layer.

Shapes: B batch, S tokens [text, video], D hidden size, E time embedding (B rows, or 1 if all rows are equal).
"""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

import torch
from torch import nn

from common.cpu_operations import CPU_HAS_BFLOAT16
from common.kinds import Layers, Size
from common.patches import Grid, patchify, unpatchify
from common.swiss_army import BaseMixin, mpu
from common.tensors import recorded
from network.attention import heads_first
from network.context import VideoContext
from network.linears import activated
from network.modulation import Experts, Modulation
from network.rotation import RotatedNorm

MOST_TOKENS_AT_A_TIME = 1536


@dataclass(frozen=True)
class LayerParts:
    """The modules and settings of one layer, looked up before it runs so that equal layers share compiled code.

    norms: LayerNorms of queries and keys, or None. alone: every token attends to itself alone. attends: False leaves
    the attention out. last: this is the last layer, which drops the text tokens after its attention.
    """
    layer_id: int
    layer: Any  # SwissArmyTransformer's, which has no types
    modulation: nn.Module
    norms: tuple[Any, Any] | None
    alone: bool
    attends: bool
    last: bool


class ImagePatchEmbeddingMixin(BaseMixin):
    """The embedding of latents (B, T, C, H, W) and text embeddings (B, N, text width) as tokens (B, S, D)."""

    def __init__(self, in_channels: Size, hidden_size: Size, patch_size: Grid,
                 text_hidden_size: Size | None = None):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(in_channels * prod(patch_size), hidden_size)
        self.text_proj = None if text_hidden_size is None else nn.Linear(text_hidden_size, hidden_size)

    def reinit(self, parent_model=None) -> None:
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def word_embedding_forward(self, input_ids, context: VideoContext, **hook) -> torch.Tensor:
        video = self.proj(patchify(context.latents, self.patch_size))
        text = context.text if self.text_proj is None else self.text_proj(context.text)
        return torch.cat((text.expand(video.shape[0], -1, -1), video), dim=1)


class AdaLNMixin(BaseMixin):
    """Expert adaptive LayerNorm (CogVideoX, Yang et al. 2024, section 2.2) around joint attention and the MLP.

    Each layer computes its modulations from the time embedding. Text and video share a LayerNorm but have separate
    shifts, scales and gates. `qk_ln`: apply LayerNorm to each head's queries and keys, before rotation.
    """

    def __init__(self, hidden_size: Size, num_layers: Layers, time_embed_dim: Size, hidden_size_head: Size,
                 qk_ln: bool = True, elementwise_affine: bool = True):
        super().__init__()
        self.adaLN_modulations = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, 12 * hidden_size)) for _ in range(num_layers))
        self.qk_ln = qk_ln
        if qk_ln:
            norm = partial(RotatedNorm, hidden_size_head, eps=1e-6, elementwise_affine=elementwise_affine)
            self.query_layernorm_list = nn.ModuleList(norm() for _ in range(num_layers))
            self.key_layernorm_list = nn.ModuleList(norm() for _ in range(num_layers))

    def reinit(self, parent_model=None) -> None:
        for modulation in self.adaLN_modulations:  # gates of zero make every block start as the identity
            linear = linear_of(modulation)
            linear = getattr(linear, "original", linear)  # inside a LoRA
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def parts(self, layer_id: int, context: VideoContext) -> LayerParts:
        """Return the modules and settings of a layer."""
        norms = (self.query_layernorm_list[layer_id], self.key_layernorm_list[layer_id]) if self.qk_ln else None
        modulation = linear_of(self.adaLN_modulations[layer_id])
        return LayerParts(layer_id, self.transformer.layers[layer_id], modulation, norms,
                          layer_id in context.identity_attention, layer_id not in context.skip_attention,
                          layer_id == len(self.adaLN_modulations) - 1)

    def modulations(self, parts: LayerParts, context: VideoContext) -> tuple[Experts, Experts]:
        """Return the modulations of attention and MLP, from the time embedding with SiLU applied."""
        terms = parts.modulation(context.embedding).unflatten(-1, (4, 3, 1, -1)).unbind(1)
        attention_video, mlp_video, attention_text, mlp_text = (
            Modulation(shift, 1 + scale, gate) for shift, scale, gate in (term.unbind(1) for term in terms))
        n = context.text_length
        return Experts(attention_text, attention_video, n), Experts(mlp_text, mlp_video, n)

    def layer_forward(self, hidden_states, mask, layer_id: int, context: VideoContext, **hook) -> torch.Tensor:
        return self.run_layer(hidden_states, self.parts(layer_id, context), context)

    def compile_layers(self, backend: str = "inductor", dynamic: bool | None = None) -> None:
        """Compile `run_layer` with torch.compile: once for all layers but the last, which drops the text tokens.

        `dynamic`: True compiles once for all numbers of tokens, None again when another number comes.
        """
        compiled = torch.compile(self.run_layer, backend=backend, dynamic=dynamic)
        self.run_layer: Callable = compiled  # type: ignore[method-assign]

    def run_layer(self, x: torch.Tensor, parts: LayerParts, context: VideoContext) -> torch.Tensor:
        """Return tokens x (B, S, D) after one layer; after the last layer, only the video tokens."""
        layer = parts.layer
        sandwich = layer.layernorm_order == "sandwich"
        around_attention, around_mlp = self.modulations(parts, context)

        branch = None
        if parts.attends:
            normed = around_attention.of_normed(layer.input_layernorm, x)
            branch = layer.attention(normed, None, parts=parts, context=context)
        if parts.last:
            x = x[:, context.text_length:]
            around_attention, around_mlp = around_attention.of_video(), around_mlp.of_video()
        if branch is not None:
            x = around_attention.add_gated(x, layer.third_layernorm(branch) if sandwich else branch)

        normed = around_mlp.of_normed(layer.post_attention_layernorm, x)
        branch = in_token_blocks(partial(layer.mlp, parts=parts, context=context), normed)
        return around_mlp.add_gated(x, layer.fourth_layernorm(branch) if sandwich else branch)

    def attention_forward(self, hidden_states, mask, parts: LayerParts, context: VideoContext, **hook) -> torch.Tensor:
        layer = parts.layer.attention
        head_dim = layer.hidden_size_per_attention_head
        q, k, v = layer.query_key_value(hidden_states).unflatten(-1, (3, -1, head_dim)).unbind(2)  # (B, S, h, d) each
        first = context.text_length if parts.last else 0  # the first token that is a query
        if parts.alone:
            return layer.output_dropout(layer.dense(v[:, first:].flatten(2)))
        q, k, v = q[:, first:].transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        norms = (None, None) if parts.norms is None else parts.norms
        q, k = context.positioned(q, norms[0], first), context.positioned(k, norms[1])
        # Under autocast, norms and rotation return float32; attention runs in the dtype of the projections. What it
        # would copy is copied here, so that the projections' own memory is free while it runs.
        q, k, v = heads_first(q.to(v.dtype)), heads_first(k.to(v.dtype)), heads_first(v)
        dropout = layer.attention_dropout.p if self.training else 0.0
        out = context.attend(q, k, v, dropout)
        return layer.output_dropout(layer.dense(out))


def in_token_blocks(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return run(x) for a `run` that treats each token of x (B, S, D) independently.

    On a CPU without gradients, in a dtype that it has instructions for, a few tokens are computed at a time and x is
    overwritten, so that the wide intermediate results stay in the processor's cache.
    """
    native = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and CPU_HAS_BFLOAT16)
    if recorded() or x.device.type != "cpu" or not native:
        return run(x)
    tokens = x.view(-1, x.shape[-1])
    for block in tokens.chunk(ceil(len(tokens) / MOST_TOKENS_AT_A_TIME)):
        block.copy_(run(block))
    return x


class MLPMixin(BaseMixin):
    """SwissArmyTransformer's MLP, run on the layer given in `parts` rather than looked up by a layer number."""

    def mlp_forward(self, hidden_states, parts: LayerParts, **hook) -> torch.Tensor:
        mlp = parts.layer.mlp
        return mlp.dense_4h_to_h(activated(mlp.dense_h_to_4h, hidden_states, mlp.activation_func))


class SwiGLUMixin(BaseMixin):
    """SwiGLU MLP (Shazeer 2020, equation 5): the first layer's output is multiplied by SiLU(w2 x)."""

    def __init__(self, num_layers: int, in_features: int, hidden_features: int):
        super().__init__()
        device = torch.get_default_device()
        self.w2 = nn.ModuleList(
            mpu.ColumnParallelLinear(in_features, hidden_features, gather_output=False, bias=False, device=device)
            for _ in range(num_layers))

    def mlp_forward(self, hidden_states, parts: LayerParts, **hook) -> torch.Tensor:
        mlp = parts.layer.mlp
        gate = mlp.activation_func(self.w2[parts.layer_id](hidden_states))
        return mlp.dense_4h_to_h(gate * mlp.dense_h_to_4h(hidden_states))


def linear_of(modulation: Any) -> Any:
    """Return the linear layer of a modulation, whose SiLU is applied once for all layers."""
    return modulation[1]


class FinalLayerMixin(BaseMixin):
    """The final layer: modulated LayerNorm, linear layer, and tokens (B, S, D) to latents (B, T, C_out, H, W)."""

    def __init__(self, hidden_size: Size, time_embed_dim: Size, patch_size: Grid, out_channels: Size,
                 elementwise_affine: bool = True):
        super().__init__()
        self.patch_size = patch_size
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=elementwise_affine, eps=1e-6)
        self.linear = nn.Linear(hidden_size, out_channels * prod(patch_size))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, 2 * hidden_size))

    def reinit(self, parent_model=None) -> None:
        for linear in (self.linear, linear_of(self.adaLN_modulation)):  # the network starts by predicting zero
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def final_forward(self, logits, context: VideoContext, **hook) -> torch.Tensor:
        shift, scale = linear_of(self.adaLN_modulation)(context.embedding)[:, None].chunk(2, dim=-1)
        video = torch.addcmul(shift, self.norm_final(logits[:, -prod(context.grid):]), 1 + scale)
        return unpatchify(self.linear(video), context.grid, self.patch_size)
