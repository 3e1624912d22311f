"""Small tensor helpers that several parts share."""
import torch


def append_dims(x: torch.Tensor, ndim: int) -> torch.Tensor:
    """(B,) -> (B, 1, ..., 1) of `ndim` dimensions, so that one number per row broadcasts over a batch."""
    if x.ndim > ndim:
        raise ValueError(f"a tensor of {x.ndim} dimensions cannot be extended to {ndim}")
    return x.reshape(*x.shape, *(1,) * (ndim - x.ndim))
