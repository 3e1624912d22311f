"""SwissArmyTransformer's stack of layers, run with a `VideoContext`, and its configuration."""
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from common.kinds import AboveZero, BelowOne, Count, Size, Steps
from common.swiss_army import BaseTransformer
from common.unread import Unread
from network.context import VideoContext
from network.layer_runner import LayerRunner


@dataclass(frozen=True)
class TransformerArgs:
    """The keys of a configuration's `transformer_args`."""

    UNREAD: ClassVar = {
        "vocab_size": Unread("the network embeds no words", (1,)),
        "max_sequence_length": Unread("positions come from pos_embed_config", (64,)),
        "is_decoder": Unread("the network has no cross attention", (False,)),  # true is refused
    }

    layernorm_order: Literal["pre", "sandwich"] = "pre"
    layernorm_epsilon: AboveZero = 1e-5
    inner_hidden_size: Size | None = None
    hidden_dropout: BelowOne = 0.0
    attention_dropout: BelowOne = 0.0
    checkpoint_activations: bool = False
    offload_activations: bool = False
    skip_init: bool = False
    model_parallel_size: Steps = 1
    vocab_size: Count = 1
    max_sequence_length: Count = 64
    is_decoder: Literal[False] = False


class VideoTransformer(BaseTransformer):
    """SwissArmyTransformer's layers, called through their hooks in a plain loop.

    The library's own loop numbers the layers with tensors, which torch.compile cannot trace, and its recomputation of
    activations accepts only tensors, which a context is not.
    """

    def __init__(self, num_layers: int, hidden_size: int, num_attention_heads: int, args: TransformerArgs,
                 layernorm: Callable[..., nn.Module], activation: Callable[[torch.Tensor], torch.Tensor],
                 parallel_output: bool = True, dtype: torch.dtype = torch.float32):
        super().__init__(
            num_layers=num_layers, hidden_size=hidden_size, num_attention_heads=num_attention_heads,
            vocab_size=1, max_sequence_length=1, embedding_dropout_prob=args.hidden_dropout,
            output_dropout_prob=args.hidden_dropout, attention_dropout_prob=args.attention_dropout,
            layernorm=layernorm, layernorm_order=args.layernorm_order, layernorm_epsilon=args.layernorm_epsilon,
            inner_hidden_size=args.inner_hidden_size, activation_func=activation, parallel_output=parallel_output,
            row_parallel_linear_final_bias=False, checkpoint_activations=args.checkpoint_activations,
            skip_init=args.skip_init, params_dtype=dtype, device=torch.get_default_device())
        del self.word_embeddings, self.position_embeddings
        self.offload_activations = args.offload_activations

    def forward(self, network: nn.Module, context: VideoContext, run: LayerRunner) -> torch.Tensor:
        """Return what the final layer makes of the tokens that `run` took through the layers of `network`."""
        x = self.hooks["word_embedding_forward"](None, context=context)
        positions = self.hooks["position_embedding_forward"](None, context=context)
        x = self.embedding_dropout(x if positions is None else x + positions)
        x = run(network, x, context)
        return self.hooks["final_forward"](self.final_layernorm(x), context=context)

    def run_layers(self, x: torch.Tensor, context: VideoContext, first: int = 0, end: int | None = None
                   ) -> torch.Tensor:
        """Return tokens x (B, S, D) after layers `first` to `end` - 1; the last layer drops the text tokens."""
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        last = len(self.layers) - 1
        for layer_id in range(len(self.layers))[first:end]:
            if layer_id in context.skip_layers:
                x = x[:, context.text_length:] if layer_id == last else x
            elif recompute:
                with self._kept(x.device):
                    x = checkpoint(self._layer, x, layer_id, context, use_reentrant=False)
            else:
                x = self._layer(x, layer_id, context)
        return x

    def _kept(self, device: torch.device) -> AbstractContextManager:
        """Return a context manager in which a layer's input is kept for the backward pass, maybe in CPU memory."""
        return save_on_cpu(pin_memory=True, device_type=device.type) if self.offload_activations else nullcontext()

    def _layer(self, x: torch.Tensor, layer_id: int, context: VideoContext) -> torch.Tensor:
        return self.hooks["layer_forward"](x, None, layer_id=layer_id, context=context)
