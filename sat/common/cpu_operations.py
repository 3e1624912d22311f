"""Matrix products, GELU and convolutions in the form that the processor computes fastest."""
from collections.abc import Sequence
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from common.measured import fastest, once, remembered
from common.tensors import piece_length, recorded

_CAPABILITIES = torch.cpu.get_capabilities()
# Without these instructions a product in 16 bits is emulated, up to a hundred times slower than one in float32.
CPU_HAS_BFLOAT16 = any(_CAPABILITIES.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
CPU_HAS_FLOAT16 = any(_CAPABILITIES.get(name, False) for name in ("avx512_fp16", "amx_fp16", "fp16"))
HAS_ONEDNN = torch.backends.mkldnn.is_available()
# A linear layer and what follows it elementwise, in one operation of oneDNN; torch's compiler uses it, too.
FUSED_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if HAS_ONEDNN else None
CACHED_ELEMENTS = 2**16  # with as many of a result they stay in a core's cache
LEAST_PRODUCTS = 2**22  # multiplications from which oneDNN's call costs nothing beside them
CLEAR_GAIN = 1.25  # of oneDNN over BLAS: where they take about the same time, the choice must not depend on chance


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a CPU computes products of a dtype in: float32 in place of one that it only emulates."""
    lacking = dtype == torch.bfloat16 and not CPU_HAS_BFLOAT16 or dtype == torch.float16 and not CPU_HAS_FLOAT16
    return torch.float32 if lacking else dtype


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute a linear layer in x's dtype.

    On a CPU that only emulates a 16-bit dtype, it is computed in float32. A large one is computed by oneDNN where that
    is faster; the bias is then added before the product is written, in bfloat16 before it is rounded.
    """
    if _is_emulated(x, weight):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if _goes_to_onednn(x, weight, LEAST_PRODUCTS):
        return LinearByOneDNN.apply(x, weight, bias) if torch.is_grad_enabled() else _by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _is_plain(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return True for a product of one dtype on a CPU by the weight itself: quantized ones have their own product."""
    return (x.dtype == weight.dtype and x.device.type == "cpu" and type(weight) in (torch.Tensor, nn.Parameter)
            and not torch.is_autocast_enabled("cpu"))


def _is_emulated(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return product_dtype(x.dtype) != x.dtype and _is_plain(x, weight)


def _goes_to_onednn(x: torch.Tensor, weight: torch.Tensor, least: int) -> bool:
    """Return True for a product that oneDNN computes faster, up to rounding the same, if it has `least` products.

    Also for one that a compiler is to leave to `linear_on_cpu`, which sees the size and asks this again.
    """
    native = x.dtype == torch.float32 or x.dtype == torch.bfloat16 and CPU_HAS_BFLOAT16
    if FUSED_LINEAR is None or not native or not _is_plain(x, weight) or not weight.is_contiguous():
        return False
    if torch.compiler.is_compiling():
        return not torch.is_grad_enabled()
    if x.numel() * len(weight) < least:
        return False
    return onednn_is_faster() if x.dtype == torch.float32 else not torch.is_grad_enabled()


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool = False) -> torch.Tensor:
    if torch.compiler.is_compiling():  # whose own products go to BLAS
        return linear_on_cpu(x, weight, bias, gelu)
    return FUSED_LINEAR(x, weight, bias, "gelu" if gelu else "none", [], "tanh" if gelu else "")


class LinearByOneDNN(torch.autograd.Function):
    """A linear layer whose product, and the two of its gradients, are computed by oneDNN."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight), (wants_x, wants_weight, wants_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        of_x = _by_onednn(gradient, weight.t().contiguous(), None) if wants_x else None
        of_weight = None
        if wants_weight:
            of_weight = _by_onednn(rows.t().contiguous(), x.flatten(0, -2).t().contiguous(), None)
        return of_x, of_weight, rows.sum(dim=0) if wants_bias else None


@torch.library.custom_op("cogvideo::linear_on_cpu", mutates_args=())
def linear_on_cpu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Compute `linear`, or `linear_gelu_tanh` if `gelu`, as one operation for the compiler.

    Its way depends on the processor, and on the size, which a graph for all sizes does not know.
    """
    return (linear_gelu_tanh if gelu else linear)(x, weight, bias)


@linear_on_cpu.register_fake
def _shaped(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@once
def onednn_is_faster() -> bool:
    """Return True if oneDNN's float32 products clearly beat BLAS's on this processor; measured once, and remembered.

    MKL, torch's BLAS, uses AVX-512 on processors of its own vendor only.
    """
    x = torch.ones(512, 512)
    ways = {"blas": lambda: F.linear(x, x), "onednn": lambda: FUSED_LINEAR(x, x, None, "none", [], "")}
    with torch.no_grad():
        return remembered("float32 products", lambda: fastest(ways, CLEAR_GAIN)) == "onednn"


def gelu_tanh(x: torch.Tensor, overwrites: bool = False) -> torch.Tensor:
    """Compute GELU by tanh (Hendrycks and Gimpel 2016, section 2): x / 2 (1 + tanh u).

    u = sqrt(2 / pi) (x + 0.044715 x^3). On a CPU without gradients, float32 is computed as x sigmoid(2 u), a few
    elements at a time, since torch's tanh takes nearly twice as long; `overwrites` allows it to take x's memory then.
    """
    if recorded() or x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    slope = 2 * (2 / pi) ** 0.5
    x = x.contiguous()
    out = x if overwrites else torch.empty_like(x)
    at_once = piece_length(CACHED_ELEMENTS * torch.get_num_threads(), x.numel(), x)
    for part, result in zip(x.view(-1).split(at_once), out.view(-1).split(at_once), strict=True):
        gate = torch.square(part).mul_(0.044715 * slope).add_(slope).mul_(part).sigmoid_()
        torch.mul(gate, part, out=result)
    return out


def linear_gelu_tanh(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute gelu_tanh(linear(x, weight, bias)).

    Where oneDNN computes the product, it applies GELU before the product is written, in bfloat16 before it is rounded,
    which takes less time and is more exact.
    """
    least = 0 if x.dtype == torch.bfloat16 else LEAST_PRODUCTS
    if not torch.is_grad_enabled() and _goes_to_onednn(x, weight, least):
        return _by_onednn(x, weight, bias, gelu=True)
    return gelu_tanh(linear(x, weight, bias), overwrites=True)


def convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: Sequence[int],
                stride: int = 1) -> torch.Tensor:
    """Convolve x in two or three dimensions; `padding` has one entry per dimension.

    On a CPU in float32, without gradients, uses oneDNN where torch has it, even for a single small input, for which
    torch's own choice is up to ten times slower. A 16-bit dtype that the CPU only emulates is computed in float32.
    """
    axes = len(padding)
    if _is_emulated(x, weight):
        wide = convolution(x.float(), weight.float(), None if bias is None else bias.float(), padding, stride)
        return wide.to(x.dtype)
    if not recorded() and x.device.type == "cpu" and x.dtype == torch.float32 and HAS_ONEDNN:
        return torch.mkldnn_convolution(x, weight, bias, padding, [stride] * axes, [1] * axes, 1)
    return (F.conv2d if axes == 2 else F.conv3d)(x, weight, bias, stride, tuple(padding))
