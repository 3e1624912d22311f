"""Links between a tensor of this project's layout and the tensors of another layout that make it."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def same(tensor: Tensor) -> tuple[Tensor]:
    return (tensor,)


def split_qkv(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(3)


def merge_rows(*tensors: Tensor, dim: int = 0) -> Tensor:
    """Concatenate tensors along an axis; a single one is returned itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def split_modulations(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Split an adaLN tensor into those of attention and MLP, the order of diffusers.

    Rows here: attention and MLP for video, then both for text. In each result: video, then text.
    """
    attention_video, mlp_video, attention_text, mlp_text = tensor.chunk(4)
    return torch.cat((attention_video, attention_text)), torch.cat((mlp_video, mlp_text))


def merge_modulations(attention: Tensor, mlp: Tensor, dim: int = 0) -> Tensor:
    """Invert `split_modulations`, along any axis."""
    (attention_video, attention_text), (mlp_video, mlp_text) = attention.chunk(2, dim), mlp.chunk(2, dim)
    return torch.cat((attention_video, mlp_video, attention_text, mlp_text), dim)


# How the rows of a tensor here are divided among as many tensors of diffusers, and joined again.
SPLITS: Mapping[int, Callable[[Tensor], tuple[Tensor, ...]]] = {1: same, 2: split_modulations, 3: split_qkv}
MERGES: Mapping[int, Callable[..., Tensor]] = {1: merge_rows, 2: merge_modulations, 3: merge_rows}


@dataclass(frozen=True)
class Link:
    """A tensor of this project and the names of diffusers' tensors with the same elements.

    `theirs` is empty for a tensor that diffusers computes. `split` and `merge` convert to and from diffusers' tensors.
    """

    name: str
    theirs: tuple[str, ...]
    split: Callable[[Tensor], tuple[Tensor, ...]] = same
    merge: Callable[..., Tensor] = merge_rows
