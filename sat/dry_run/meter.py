"""Measurement of the memory and arithmetic that code needs, by running it on the meta device (shapes without data).

Every tensor is followed from allocation to release, so chunks, caches, dtypes and tensors held for too long all count
as in a real run.
"""
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_flop_count, shape_wrapper

from common.cpu_operations import FUSED_LINEAR
from dry_run.convolutions import rearranged_bytes
from dry_run.kernels import META, Kernels, tensors_in
from dry_run.work import CACHED, Work
from network.cpu_attention import attention_on_cpu

ALLOCATIONS = (torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.new_empty,
               torch.ops.aten.detach)
DEVICE = Tensor.device.__get__
# Operations of kernels that torch's own registry lacks, by shapes.
FORMULAS: dict[OpOverloadPacket, Callable[..., float]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda q, k, v, *rest, out_shape=None, **named: sdpa_flop_count(q, k, v),
    torch.ops.aten.mkldnn_convolution:
        lambda x, weight, *rest, out_shape=None, **named: conv_flop_count(x, weight, out_shape),
    attention_on_cpu._opoverload.overloadpacket:
        lambda q, k, v, *rest, out_shape=None, **named: sdpa_flop_count(q, k, v)}
if FUSED_LINEAR is not None:
    FORMULAS[FUSED_LINEAR] = lambda x, weight, *rest, out_shape=None, **named: 2 * prod(x) * weight[0]
_BY_TENSORS = flop_registry | {packet: shape_wrapper(formula) for packet, formula in FORMULAS.items()}


@torch.no_grad()
def measure(call: Callable[[], object], device: torch.device) -> tuple[int, Work]:
    """Return the bytes and the work that `call` would need on a device; all its tensors must be on the meta device.

    Bytes are the most that its new tensors take at a time, without those that existed before.
    """
    peak, works = measure_parts(lambda: iter((call(),)), device)
    return peak, works[0]


@torch.no_grad()
def measure_parts(call: Callable[[], Iterator], device: torch.device) -> tuple[int, list[Work]]:
    """Return the bytes that making all parts needs, as `measure` does, and the work of each part."""
    with Meter(device) as meter, FusedAttention(meter), _taken_for(device):
        done = [Work(), *(meter.work for _ in call())]
    return meter.peak, [after + before * -1 for before, after in pairwise(done)]


def measure_training(loss: Callable[[], Tensor], module: nn.Module, device: torch.device) -> tuple[int, int]:
    """Return the bytes that a forward and a backward pass would need on a device: without gradients, and with them.

    `loss` computes with a `module` on the meta device, in the way that it takes on `device`. Without: each weight's
    gradient is gone once it is complete.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop) for p in trained]
    alone = _forward_and_backward(loss, device)
    for hook in hooks:
        hook.remove()
    together = _forward_and_backward(loss, device)
    module.zero_grad(set_to_none=True)
    return alone, together


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


@torch.enable_grad()
def _forward_and_backward(loss: Callable[[], Tensor], device: torch.device) -> int:
    with Meter(device) as meter, FusedAttention(meter), _taken_for(device):
        # torch's public functions would leave the modes, and with them layers that are computed again.
        _engine_run_backward((value := loss(),), (torch.ones_like(value),), False, False, inputs=(),
                             allow_unreachable=True, accumulate_grad=True)
    return meter.peak


class Meter(TorchDispatchMode):
    """Context manager that counts the bytes of new tensors (`live`; `peak`: the most at a time) and the work.

    The tensors may be on the meta device or real ones.

    A convolution is also charged for its rearranged input.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._on_cpu = device.type == "cpu"
        self.live = self.peak = 0
        self.work = Work()
        self._known: set[int] = set()
        self._kernels = Kernels(self._cost)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():  # a backward pass comes here with the modes below
            return self._counted(func, args, kwargs or {})

    def _counted(self, func: OpOverload, args: tuple, kwargs: dict) -> Any:
        for tensor in tensors_in((*args, *kwargs.values())):  # weights and inputs existed before
            self._follow(tensor, 0)
        out, (rearranged, work) = self._kernels.run(func, args, kwargs)
        for tensor in tensors_in((out,)):
            self._follow(tensor, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live + rearranged)
        self.work += work
        return out

    def _cost(self, func: OpOverload, args: tuple, kwargs: dict, out: object) -> tuple[int, Work]:
        """Return the bytes of a convolution's rearranged input, and the work of a kernel."""
        packet = func.overloadpacket
        rearranged = rearranged_bytes(packet, args, out, self._on_cpu)
        if func.is_view:
            return rearranged, Work()
        touched = tensors_in((*args, *kwargs.values(), out))
        return rearranged, _of_formula(packet, args, kwargs, out) or _of_traffic(packet, touched)

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
    """Context manager that counts attention as fused kernels compute it; unfused, all scores would count."""

    def __init__(self, meter: Meter):
        super().__init__()
        self._meter = meter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k = args[:2]
        self._meter.work += Work(attention=4 * prod(q.shape) * k.shape[-2], calls=1)
        return Attention.apply(*args[:3])


class TakenFor(TorchFunctionMode):
    """Context manager in which code that asks for the device of a tensor on the meta device is told another one.

    The code then takes the way that is for that device: on a CPU, other products and copies than elsewhere. Torch's own
    code still sees the meta device, on which the tensors have to stay.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {name: self._on_meta(value) for name, value in (kwargs or {}).items()}
        found = STAND_INS.get(func, func)(*map(self._on_meta, args), **kwargs)
        asked = func == DEVICE and not sys._getframe(1).f_globals.get("__name__", "").startswith("torch.")
        return self._device if asked and found == META else found

    def _on_meta(self, given: Any) -> Any:
        return META if isinstance(given, torch.device) and given == self._device else given


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], stride: Sequence[int],
               dilation: Sequence[int], groups: int) -> Tensor:
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(padding), groups)


def _channel_moments(x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[1], dtype=torch.float32), x.new_empty(x.shape[1], dtype=torch.float32)


# Functions that torch has for tensors with values alone, and what has their shapes and work.
STAND_INS: dict[Callable, Callable] = {
    torch.mkldnn_convolution: _convolved, torch.batch_norm_update_stats: _channel_moments}


def _taken_for(device: torch.device) -> AbstractContextManager[object]:
    return TakenFor(device) if device.type == "cpu" else nullcontext()


class Attention(torch.autograd.Function):
    """Attention as fused kernels keep it for the backward pass: inputs, output, and one number for each query."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _of_formula(packet: OpOverloadPacket, args: tuple, kwargs: dict, out: object) -> Work | None:
    """Return the work of a product, convolution or attention, None for others. Their traffic is part of their rates."""
    if packet not in _BY_TENSORS:
        return None
    flops = float(_BY_TENSORS[packet](*args, **kwargs, out_val=out))
    name = str(packet)
    kind = "convolutions" if "convolution" in name else "attention" if "attention" in name else "products"
    return Work(**{kind: flops}, calls=1)


def _of_traffic(packet: OpOverloadPacket, tensors: Sequence[Tensor]) -> Work:
    """Return the work of another kernel, which reads and writes these tensors."""
    if packet in ALLOCATIONS:
        return Work()
    touched = sum(x.nbytes for x in tensors)
    return Work(cached=touched, calls=1) if touched <= CACHED else Work(bytes=touched, calls=1)
