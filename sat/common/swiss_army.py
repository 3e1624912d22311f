"""SwissArmyTransformer, imported in one place: without log output, and with a clear error if it is missing.

This project's source folder is called `sat`, too. Without the library, `import sat` may find just that folder as an
empty namespace package, and fail later in confusing ways.

The library's start-up imports a model zoo, data sets and DeepSpeed, ten times what its transformer needs. It is put off
until one of its names is used, and so is `requests`, by which it would download models.
"""
import importlib
import importlib.util
import os
import sys
import threading
import types

import torch

from common.errors import UserError

# The library logs its start-up at INFO and a missing optional bitsandbytes as a warning. A user's setting is kept.
os.environ.setdefault("SAT_LOGLEVEL", "ERROR")
if not torch.accelerator.is_available():  # otherwise DeepSpeed warns at every start that it had to guess
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


_RUNNING = threading.RLock()  # held by the thread that runs the code of such a package


class _Deferred(types.ModuleType):
    """A package whose modules can be imported, but whose own code runs only when another of its names is used."""

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__version__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name != "__version__" and importlib.util.find_spec(f"{self.__name__}.{name}") is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        with _RUNNING:
            if "__deferred__" in vars(self):  # no other thread has run it, nor does this one
                del vars(self)["__deferred__"]
                spec = self.__spec__
                assert spec is not None and spec.loader is not None
                spec.loader.exec_module(self)
                object.__setattr__(self, "__class__", types.ModuleType)
            return types.ModuleType.__getattribute__(self, name)


def _defer(package: str) -> None:
    """Put a `_Deferred` module in the place of a package, if it is installed and not yet imported."""
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is not None and spec.origin is not None:  # an installed package, not just a folder of that name
        module = sys.modules[package] = importlib.util.module_from_spec(spec)
        module.__class__ = _Deferred
        vars(module)["__deferred__"] = True
        parent, _, name = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], name, module)


try:
    _defer("sat")
    _defer("sat.model")
    _defer("requests")
    import sat.mpu as mpu
    import sat.mpu.initialize as process_groups
    from sat.model.base_model import BaseMixin, BaseModel
    from sat.model.transformer import BaseTransformer
    from sat.ops.layernorm import RMSNorm
except ImportError as error:
    import sat

    if getattr(sat, "__file__", None) is not None:
        raise
    raise UserError("SwissArmyTransformer is not installed (`import sat` finds only a source folder of that name); "
                    "run: pip install -r requirements.txt") from error

__all__ = ["BaseMixin", "BaseModel", "BaseTransformer", "RMSNorm", "mpu", "process_groups"]
