"""Kernels on the meta device, whose results are remembered by the shapes that they were given.

Torch works out most shapes in Python, which takes a hundred times as long as making a tensor, and a model asks for the
same few again and again.
"""
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

META = torch.device("meta")
OWN = (Tensor, nn.Parameter)  # classes of tensors of torch's own kernels; others, as of quantized weights, have theirs
PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
Again = Callable[[tuple, dict], Any]


class Incomparable(Exception):
    """An argument, such as a tensor with values, on which the result of a kernel may depend beyond its shape."""


class Kernels:
    """Runs kernels, and remembers what each returned, and cost, for arguments of these shapes.

    It returned new tensors, or the argument into which it wrote. `cost(func, args, kwargs, out)` returns what a call
    costs, which may depend on shapes alone.
    """

    def __init__(self, cost: Callable[[OpOverload, tuple, dict, Any], Any]):
        self._cost = cost
        self._known: dict[Hashable, tuple[Again, Any]] = {}

    def run(self, func: OpOverload, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        """Return what a kernel returns for these arguments, and the cost. Views, which share memory, always run."""
        key = None if func.is_view else _key(func, args, kwargs)
        if key in self._known:
            again, cost = self._known[key]
            return again(args, kwargs), cost
        out = func(*args, **kwargs)
        cost = self._cost(func, args, kwargs, out)
        repeat = None if key is None else _again(out, args, kwargs)
        if repeat is not None and key == _key(func, args, kwargs):  # no argument was resized
            self._known[key] = repeat, cost
        return out, cost


def _key(func: OpOverload, args: tuple, kwargs: dict) -> Hashable:
    """Return what is equal for calls with results of one shape; None for one whose result may depend on more."""
    try:
        return func, _described(args), _described(tuple(kwargs.items()))
    except Incomparable:
        return None


def _described(value: Any) -> Hashable:
    """Return what is equal for arguments that lead to results of one shape."""
    if isinstance(value, Tensor):
        if value.device != META or type(value) not in OWN:
            raise Incomparable
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    if isinstance(value, PLAIN):
        return type(value), value
    raise Incomparable


def _again(out: Any, args: tuple, kwargs: dict) -> Again | None:
    """Return what gives such a result for other arguments of the same shapes; None for one that is not understood."""
    for i, given in enumerate(args):
        if given is out:
            return lambda args, kwargs: args[i]
    for name, given in kwargs.items():
        if given is out:
            return lambda args, kwargs: kwargs[name]
    if isinstance(out, Tensor):
        return _new(out, args, kwargs)
    if isinstance(out, tuple) and out and all(isinstance(one, Tensor) for one in out):
        each = [again for one in out if (again := _new(one, args, kwargs)) is not None]
        return (lambda args, kwargs: tuple(again(args, kwargs) for again in each)) if len(each) == len(out) else None
    return None


def _new(out: Tensor, args: tuple, kwargs: dict) -> Again | None:
    """Return what makes a new tensor like `out`, if it has memory of its own and no more than it needs."""
    shape, stride, dtype = out.shape, out.stride(), out.dtype

    def made(args: tuple, kwargs: dict) -> Tensor:
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)

    def storage(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    given = tensors_in((*args, *kwargs.values()))
    if out.device != META or type(out) not in OWN or storage(out) in map(storage, given):
        return None
    return made if out.untyped_storage().nbytes() == made(args, kwargs).untyped_storage().nbytes() else None


def tensors_in(values: Iterable[object]) -> list[Tensor]:
    """Return the tensors among the arguments or results of a kernel, which are values or lists of them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found
