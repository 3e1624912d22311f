"""The setting of a benchmark: a model's size, the device and dtype that it runs in, and its random inputs."""
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.random_models import Size
from network.attention_kernels import Shape, use_attention_kernel


@dataclass(frozen=True)
class Setting:
    """The size, device and dtype of a comparison, how the transformers are `compiled` ("whole", "regional", "max" or
    None), and the kernel of our attention (one of `attention_kernels.KERNELS`, FASTEST, or None for torch's choice)."""

    size: Size
    device: torch.device
    dtype: torch.dtype
    compiled: str | None = None
    attention: str | None = None

    def compile(self, ours: nn.Module, theirs: nn.Module) -> None:
        """Compile both transformers as this setting says."""
        if self.compiled == "whole":
            ours.compile()
            theirs.compile()
        elif self.compiled == "max":
            ours.compile_as("max")
            theirs.compile(mode="max-autotune")
        elif self.compiled == "regional":
            ours.compile_layers()
            for block in theirs.transformer_blocks:  # their class names no blocks for compile_repeated_blocks
                block.compile()

    def attending(self, shape: Shape) -> AbstractContextManager[None]:
        """Return a context manager in which our attention runs by the chosen kernel."""
        return nullcontext() if self.attention is None else (
            use_attention_kernel(self.attention, shape, self.dtype, self.device))

    def noise(self, *shape: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

    def text(self, rows: int) -> Tensor:
        return self.noise(rows, self.size.text_length, self.size.text_width, seed=2)
