"""Matrix products, GELU and convolutions in the form that the processor computes fastest."""
from collections.abc import Sequence
from math import pi

import torch
import torch.nn.functional as F
from torch import nn

from common.tensors import recorded

_CAPABILITIES = torch.cpu.get_capabilities()
# Without these instructions a bfloat16 product is emulated, several times slower than one in float32.
CPU_HAS_BFLOAT16 = any(_CAPABILITIES.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
HAS_ONEDNN = torch.backends.mkldnn.is_available()
# A linear layer and what follows it elementwise, in one operation of oneDNN; torch's compiler uses it, too.
FUSED_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if HAS_ONEDNN else None
CACHED_ELEMENTS = 2**19  # elements that stay in a core's cache


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a linear layer in x's dtype; on a CPU that only emulates bfloat16, compute it in float32."""
    emulated = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BFLOAT16
    quantized = type(weight) not in (torch.Tensor, nn.Parameter)  # such weights implement their own product
    if emulated and not quantized and not torch.is_autocast_enabled("cpu"):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.linear(x, weight, bias)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Compute GELU by tanh (Hendrycks and Gimpel 2016, section 2): x / 2 (1 + tanh u).

    u = sqrt(2 / pi) (x + 0.044715 x^3). On a CPU without gradients, a small float32 tensor is computed as
    x sigmoid(2 u), since torch's tanh takes nearly twice as long. A tensor too large for the processor's cache is left
    to torch, which goes through it once.
    """
    if recorded() or x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() > CACHED_ELEMENTS:
        return F.gelu(x, approximate="tanh")
    slope = 2 * (2 / pi) ** 0.5
    return torch.square(x).mul_(0.044715 * slope).add_(slope).mul_(x).sigmoid_().mul_(x)


def linear_gelu_tanh(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute gelu_tanh(linear(x, weight, bias)).

    On a CPU with bfloat16 instructions, without gradients, oneDNN applies GELU to the product before it is rounded to
    bfloat16 and written, which takes less time and is more exact.
    """
    possible = (CPU_HAS_BFLOAT16 and not recorded() and x.device.type == "cpu"
                and x.dtype == weight.dtype == torch.bfloat16 and type(weight) in (torch.Tensor, nn.Parameter))
    if FUSED_LINEAR is not None and possible and not torch.is_autocast_enabled("cpu"):
        return FUSED_LINEAR(x, weight, bias, "gelu", [], "tanh")
    return gelu_tanh(linear(x, weight, bias))


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: Sequence[int],
                stride: int = 1) -> torch.Tensor:
    """Convolve x in two or three dimensions; `padding` has one entry per dimension.

    On a CPU in float32, without gradients, uses oneDNN where torch has it, even for a single small input, for which
    torch's own choice is up to ten times slower.
    """
    axes = len(padding)
    if not recorded() and x.device.type == "cpu" and x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.mkldnn_convolution(x, weight, bias, padding, [stride] * axes, [1] * axes, 1)
    return (F.conv2d if axes == 2 else F.conv3d)(x, weight, bias, stride, tuple(padding))
