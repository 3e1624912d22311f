"""SwissArmyTransformer, imported in one place: quietly, and with a clear word when it is missing.

This project's source folder is called `sat` as well. Without the library `import sat` may find just that folder, as an
empty namespace, and fail later in confusing ways.
"""
import os

import torch

from errors import UserError

# The library logs its start-up at INFO and a missing optional bitsandbytes as a warning; a user's own setting wins.
os.environ.setdefault("SAT_LOGLEVEL", "ERROR")
if not torch.accelerator.is_available():  # say so, or DeepSpeed warns at every start that it had to guess
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

try:
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
