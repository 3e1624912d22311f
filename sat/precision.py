"""Matrix products in the precision that the processor computes fast."""
import torch
import torch.nn.functional as F
from torch import nn

_CAPABILITIES = torch.cpu.get_capabilities()
# Without such instructions a bfloat16 product is emulated, several times slower than the same in float32.
CPU_HAS_BFLOAT16 = any(_CAPABILITIES.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A linear layer in x's dtype; bfloat16 runs through float32 on a CPU that only emulates it."""
    emulated = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and not CPU_HAS_BFLOAT16
    quantized = type(weight) not in (torch.Tensor, nn.Parameter)  # such weights know how to compute themselves
    if emulated and not quantized and not torch.is_autocast_enabled("cpu"):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    return F.linear(x, weight, bias)
