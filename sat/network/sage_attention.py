"""Attention by SageAttention 2 (Zhang et al. 2024), an optional package: queries and keys are rounded to 8 bits.

Lossy. The package multiplies 8-bit queries and keys, with a scale for each few tokens, and smooths the keys by their
mean first; where the accelerator can, probabilities and values are rounded to 8 bits, too.
"""
from importlib import import_module, metadata

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PACKAGE = "sageattention"


@torch.library.custom_op("cogvideo::sage_attention", mutates_args=())  # one operation for the compiler
def sage_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return unmasked attention (B, h, Q, d) for queries (B, h, Q, d), keys and values (B, h, K, d) of 16 bits."""
    return import_module(PACKAGE).sageattn(q, k, v, tensor_layout="HND", is_causal=False).contiguous()


@sage_attention.register_fake
def _shaped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return q.new_empty(q.shape)


def _is_plain(attn_mask: torch.Tensor | None = None, **others: object) -> bool:
    """Return True for attention without a mask and with nothing else than usual."""
    return attn_mask is None and not any(others.values())


class SageAttention(TorchFunctionMode):
    """Context manager in which torch's unmasked attention is computed by SageAttention, eagerly and compiled.

    Entering it raises ImportError without the package, or with its first version.
    """

    def __enter__(self):
        version = metadata.version(PACKAGE)
        if version.startswith("1."):
            raise ImportError(f"{PACKAGE} {version} is installed, but version 2 is needed")
        return super().__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _is_plain(**kwargs):
            return sage_attention(*args)
        return func(*args, **kwargs)
