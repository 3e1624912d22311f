"""Modules without memory, built for the shapes of their tensors or to be filled from a file."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialization(TorchFunctionMode):
    """A mode in which torch's initializers leave tensors as they are.

    On the meta device they would do nothing but import torch's compiler, which takes a second.
    """

    def __torch_function__(self, func, types, args=(), kwargs: Any = None):
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Context manager in which new tensors have shapes and no values: they are on the meta device."""
    with torch.device("meta"), _NoInitialization():
        yield
