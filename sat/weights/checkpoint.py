"""Reading and writing of checkpoints: SwissArmyTransformer folders, `.pt` and safetensors files.

Files are memory-mapped, and no code in them is executed.

A folder holds `latest` (an iteration, or `release`) and `<iteration>/mp_rank_00_model_states.pt`, which holds
`{"module": state_dict, ...}`; transformer weights carry the prefix `model.diffusion_model.`.
"""
import os
import pickle
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct  # numpy's own pickles name it
from torch import Tensor, nn

from common.errors import CheckpointError
from common.files import sync_folder, whole_file
from common.listing import listed
from weights.lora_names import is_matrix, without_lora

STATES = "mp_rank_00_model_states.pt"
NETWORK_PREFIX = "model.diffusion_model."
WRAPPERS = ("module", "state_dict")
# SwissArmyTransformer also stores numpy's random state and its own arguments. Unpickling these types runs no code.
SAFE_TYPES: list[Any] = [
    Namespace, np.ndarray, np.dtype, _reconstruct,
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(t)) for t in (np.uint32, np.int64, np.float32, np.float64)},
]


def find_checkpoint(path: str | Path) -> Path:
    """Return the weights file for a path: the file itself, or the folder's latest. Raises CheckpointError if none."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist; the header of the model's configuration says what "
                              "belongs there, or set another path (args.load, ckpt_path)")
    if (path / STATES).is_file():
        return path / STATES
    latest = path / "latest"
    if not latest.is_file():
        raise CheckpointError(f"checkpoint folder {path} has no file `latest` that names an iteration, and no {STATES}")
    iteration = latest.read_text(errors="replace").strip()
    states = path / iteration / STATES
    if not iteration or not states.is_file():
        raise CheckpointError(f"{latest} names iteration {iteration!r}, but {iteration}/{STATES} beside it is missing")
    return states


def check_readable(path: str | Path) -> Path:
    """Return the weights file for a path, checked without reading its tensors.

    Raises CheckpointError if it is missing, empty, truncated or no valid safetensors file.
    """
    file = find_checkpoint(path)
    with open(file, "rb") as stream:
        head = stream.read(2)
    if file.suffix == ".safetensors":
        open_safetensors(file)
    elif not head:
        raise CheckpointError(f"checkpoint {file} is empty; copy it again")
    elif head == b"PK" and not zipfile.is_zipfile(file):
        raise CheckpointError(f"checkpoint {file} is truncated ({file.stat().st_size} bytes); copy it again")
    return file


def read_checkpoint(path: str | Path, names: Container[str] | None = None) -> dict:
    """Read everything in a checkpoint, tensors memory-mapped; from safetensors, only tensors in `names` if given.

    Raises CheckpointError for a file that is missing or damaged, or whose pickle holds anything but tensors and plain
    values (none of it is executed).
    """
    file = check_readable(path)
    if file.suffix == ".safetensors":
        return _read_safetensors(file, names)
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"checkpoint {file} is refused: {_refusal(error)}") from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, IndexError, TypeError) as error:
        # The type that torch raises depends on where the file is damaged.
        raise CheckpointError(f"checkpoint {file} is damaged ({_one_line(error)}); copy it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {file} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def read_state_dict(path: str | Path, names: Container[str] | None = None) -> dict[str, Tensor]:
    """Read a checkpoint's state dict, which may lie under `module` or `state_dict`; only `names` if given.

    Raises CheckpointError as `read_checkpoint` does, and for a file without tensors.
    """
    content = read_checkpoint(path, names)
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    state = {k: v for k, v in content.items() if isinstance(v, Tensor) and (names is None or k in names)}
    if not state and names is None:
        raise CheckpointError(f"checkpoint {find_checkpoint(path)} holds no tensors")
    return state


def load_module(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into a module, converting to its dtype and device.

    Raises CheckpointError unless every name and shape fits. If `state` has no LoRA, that of the module stays as it is.
    """
    check_shapes(required_tensors(module, state), state, source)
    module.load_state_dict(state, strict=False)  # names were checked above


def required_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the module's tensors that `state` must hold.

    Computed tables (buffers) are optional. If `state` has no LoRA, the names are those of a module without LoRA.
    """
    buffers = dict(module.named_buffers())
    own = {name: value for name, value in module.state_dict().items() if name in state or name not in buffers}
    return own if any(map(is_matrix, state)) else without_lora(own)


def check_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise CheckpointError, naming the tensors at fault, unless a module's state dict and a checkpoint's match."""
    faults = describe_mismatches(own, state)
    if faults:
        raise CheckpointError(f"checkpoint {source} does not fit the configuration; {faults}")


def describe_mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe which tensors of `state` have other shapes than in `own`, are missing, or extra; "" if all fit."""
    different = [f"{k} is {_shape(state[k])}, wanted {_shape(v)}" for k, v in own.items()
                 if k in state and state[k].shape != v.shape]
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    faults = (("shapes differ: ", different), ("missing: ", missing), ("not in the model: ", extra))
    return "; ".join(title + listed(names) for title, names in faults if names)


def save_checkpoint(folder: str | Path, iteration: int | str, content: Mapping) -> Path:
    """Write `<folder>/<iteration>/mp_rank_00_model_states.pt`, then the iteration to `latest`; return the file's path.

    `latest` always names a complete checkpoint: the states are flushed to disk before it changes.
    """
    folder = Path(folder)
    partial, final = folder / f".{iteration}.partial", folder / str(iteration)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with open(partial / STATES, "wb") as stream:
            torch.save(dict(content), stream)
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(partial)
        if final.exists():  # a folder cannot be replaced atomically, the file in it can
            os.replace(partial / STATES, final / STATES)
        else:
            os.replace(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(folder)
    name_latest(folder, iteration)
    return final / STATES


def name_latest(folder: Path, iteration: int | str) -> None:
    """Have `latest` name an iteration, whose files are on disk already."""
    with whole_file(folder / "latest") as latest:
        latest.write_text(str(iteration))


def open_safetensors(file: Path):
    """Open a safetensors file for reading. Raises CheckpointError if it is damaged."""
    from safetensors import SafetensorError, safe_open
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {file} is truncated or no safetensors file ({_one_line(error)}); "
                              "copy it again") from error


def _read_safetensors(file: Path, names: Container[str] | None) -> dict[str, Tensor]:
    """Read the tensors in `names` only: even a memory-mapped tensor brings a page of the file into memory."""
    with open_safetensors(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys() if names is None or key in names}


def _refusal(error: Exception) -> str:
    reason = str(error).partition("WeightsUnpickler error:")[2].split("\n")[0].strip()
    return ("its pickle is damaged or holds more than tensors and plain values; none of it was executed"
            f"{f' ({reason[:120]})' if reason else ''}; use a file of tensors, such as safetensors")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
