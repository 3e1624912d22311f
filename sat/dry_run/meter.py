"""What code needs of memory and arithmetic, found by running it on the meta device: shapes without numbers.

Every tensor is followed from its making to its end, so chunks, caches, dtypes and what is held for too long all count
as they run.
"""
import weakref
from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from common.cpu_operations import CPU_HAS_BFLOAT16


@torch.no_grad()
def measure(call: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """The most bytes that would be alive at a time on a device while `call` runs, beside what was there before, and the
    floating-point operations of its matrix products and convolutions. All its tensors must be on the meta device."""
    with Meter(device) as meter, FusedAttention(meter):
        call()
    return meter.peak, meter.flops


class Meter(TorchDispatchMode):
    """Counts, while it is entered, the bytes of new tensors that are alive (`peak`: the most) and operations.

    A convolution also holds its input as its kernel wants it: in another order of axes (oneDNN's blocks of channels,
    cuDNN's channels last), or, in three dimensions and 16 bits on a CPU without instructions for them, unfolded, a
    column for each place of the kernel.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._on_cpu = device.type == "cpu"
        self.live = self.peak = self.flops = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):  # weights and inputs were there before
            self._follow(tensor, 0)
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            self._follow(tensor, tensor.untyped_storage().nbytes())
        packet = func.overloadpacket
        scratch = self._rearranged(*args[:2], out) if packet is torch.ops.aten.convolution else 0
        self.peak = max(self.peak, self.live + scratch)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return out

    def _rearranged(self, x: Tensor, weight: Tensor, out: Tensor) -> int:
        fast = x.dtype == torch.float32 or CPU_HAS_BFLOAT16
        if self._on_cpu and x.dim() == 5 and not fast:
            return prod(weight.shape[1:]) * prod(out.shape[2:]) * x.element_size()
        return x.nbytes

    def _follow(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.live += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class FusedAttention(TorchFunctionMode):
    """Attention as kernels compute it, which never hold all scores; on the meta device it would hold them."""

    def __init__(self, meter: Meter):
        super().__init__()
        self._meter = meter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k = args[:2]
        self._meter.flops += 4 * prod(q.shape) * k.shape[-2]
        return torch.empty_like(q)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
