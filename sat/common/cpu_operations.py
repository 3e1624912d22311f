"""Matrix products and convolutions in the way that the processor computes fast."""
from collections.abc import Sequence
from math import pi

import torch
import torch.nn.functional as F
from torch import nn

from common.tensors import recorded

_CAPABILITIES = torch.cpu.get_capabilities()
# Without such instructions a bfloat16 product is emulated, several times slower than the same in float32.
CPU_HAS_BFLOAT16 = any(_CAPABILITIES.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
HAS_ONEDNN = torch.backends.mkldnn.is_available()
FEW = 2**19  # numbers that stay in a core's cache


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A linear layer in x's dtype; bfloat16 runs through float32 on a CPU that only emulates it."""
    emulated = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BFLOAT16
    quantized = type(weight) not in (torch.Tensor, nn.Parameter)  # such weights know how to compute themselves
    if emulated and not quantized and not torch.is_autocast_enabled("cpu"):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.linear(x, weight, bias)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU by tanh (Hendrycks and Gimpel 2016, section 2): x / 2 (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3).

    Few numbers in float32 on a CPU, where no gradient is recorded, as x sigmoid(2 u): torch's tanh takes nearly twice
    as long, while what does not stay in the cache is better gone through once.
    """
    if recorded() or x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() > FEW:
        return F.gelu(x, approximate="tanh")
    slope = 2 * (2 / pi) ** 0.5
    return torch.square(x).mul_(0.044715 * slope).add_(slope).mul_(x).sigmoid_().mul_(x)


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: Sequence[int],
                stride: int = 1) -> torch.Tensor:
    """In two or three dimensions. A single small float32 input goes to oneDNN, too, on a CPU and where no gradient is
    recorded: the way that torch takes for it there is up to ten times slower."""
    axes = len(padding)
    if not recorded() and x.device.type == "cpu" and x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.mkldnn_convolution(x, weight, bias, padding, [stride] * axes, [1] * axes, 1)
    return (F.conv2d if axes == 2 else F.conv3d)(x, weight, bias, stride, tuple(padding))
