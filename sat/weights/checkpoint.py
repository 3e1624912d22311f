"""Reading and writing of checkpoints: SwissArmyTransformer folders, `.pt` and safetensors files.

Files are memory-mapped, and no code in them is executed.

A folder holds `latest` (an iteration, or `release`) and `<iteration>/mp_rank_00_model_states.pt`, which holds
`{"module": state_dict, ...}`; transformer weights carry the prefix `model.diffusion_model.`.
"""
import os
import pickle
import re
import shutil
from argparse import Namespace
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct  # numpy's own pickles name it
from torch import Tensor, nn

from common.errors import CheckpointError, DataError
from common.files import sync_folder, whole_file
from common.listing import listed
from common.tensors import dtype_name
from common.text import read_text
from weights.checksums import check_sums
from weights.formats import SAFETENSORS, TORCH, format_of
from weights.lora_names import is_matrix, without_lora

STATES = "mp_rank_00_model_states.pt"
NETWORK_PREFIX = "model.diffusion_model."
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")  # of files of weights
# Where torch.save's files have their tensors, if not at the top. An average of the weights counts only if it is alone.
WRAPPERS = ("module", "state_dict", "model", "model_state_dict", "network", "net", "params",
            "ema", "ema_state_dict", "model_ema", "ema_model", "params_ema")
MOST_WRAPPERS = 4  # inside each other
# SwissArmyTransformer also stores numpy's random state and its own arguments. Unpickling these types runs no code.
SAFE_TYPES: list[Any] = [
    Namespace, np.ndarray, np.dtype, _reconstruct,
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    *{type(np.dtype(t)) for t in (np.uint32, np.int64, np.float32, np.float64)},
]


def find_checkpoint(path: str | Path) -> Path:
    """Return the weights file for a path: the file itself, the folder's latest, or the only one in the folder.

    Raises CheckpointError if there is none or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} {_absent(path)}; the header of the model's configuration says what "
                              "belongs there, or set another path (args.load, ckpt_path)")
    if (path / STATES).is_file():
        return _undivided(path / STATES)
    latest = path / "latest"
    if not latest.is_file():
        return _without_latest(path)
    try:
        iteration = read_text(latest).strip()
    except DataError as error:
        raise CheckpointError(f"{error}; `latest` holds the name of an iteration, such as 1000") from error
    if not iteration or "/" in iteration or iteration in (".", ".."):
        raise CheckpointError(f"{latest} names iteration {iteration[:100]!r}; it must be that of a folder beside it"
                              f"{_saved(path)}")
    states = path / iteration / STATES
    if not states.is_file():
        beside = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
        hint = f"; the folder holds {listed(beside)}" if beside else ""  # as the run of an autoencoder does
        raise CheckpointError(f"{latest} names iteration {iteration[:100]!r}, but {iteration[:100]}/{STATES} beside it "
                              f"is missing{_saved(path)}{hint}")
    return _undivided(states)


def check_there(path: str | Path | None) -> None:
    """Raise CheckpointError if `args.load` names nothing that is there, before what else may be missing with it."""
    if path is not None and not Path(path).is_file() and not Path(path).is_dir():
        raise CheckpointError(f"args.load: checkpoint {path} {_absent(Path(path))}; give the folder or file of the "
                              "weights, or a whole diffusers folder")


def _absent(path: Path) -> str:
    """Return a clause on a path that is neither file nor folder."""
    if path.is_symlink():
        return f"is a link to {os.readlink(path)}, which does not exist"
    if re.match(r"https?:/", str(path)):
        return "is an address; nothing is fetched from the network, so download it first"
    return "is neither a file nor a folder" if path.exists() else "does not exist"


def _undivided(states: Path) -> Path:
    """Return a file of weights. Raises CheckpointError if it is one of several processes' parts."""
    parts = list(states.parent.glob("mp_rank_*_model_states.pt"))
    if len(parts) > 1:
        raise CheckpointError(f"checkpoint {states.parent} is divided among {len(parts)} processes (mp_rank_00 and so "
                              "on); merge its parts with the program that wrote it")
    return states


def iterations(folder: Path) -> list[str]:
    """Return the names of the iterations that a checkpoint folder holds, the lower first."""
    names = [file.parent.name for file in folder.glob(f"*/{STATES}") if not file.parent.name.startswith(".")]
    return sorted(names, key=lambda name: (len(name), name))


def _saved(folder: Path) -> str:
    """Return a clause with the iterations of a folder and what to do; "" if it has none."""
    saved = iterations(folder)
    return saved and f"; saved here: {', '.join(saved)}; write one of these names into {folder / 'latest'}" or ""


def _without_latest(folder: Path) -> Path:
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
    if iterations(folder):
        raise CheckpointError(f"checkpoint folder {folder} has no file `latest` that names an iteration"
                              f"{_saved(folder)}")
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(f"checkpoint folder {folder} holds several files of weights ({listed(files)}) and no "
                              "file `latest`; give one of them")
    hint = f"; give {folder / 'transformer'}" if (folder / "transformer").is_dir() else ""
    raise CheckpointError(f"checkpoint folder {folder} has no file `latest` that names an iteration, and no {STATES} "
                          f"or other file of weights{hint}")


def read_checkpoint(path: str | Path, names: Container[str] | None = None, verify: bool = True) -> dict:
    """Read everything in a checkpoint, tensors memory-mapped; from safetensors, only tensors in `names` if given.

    With `verify` the checksums of torch.save are compared, if they have not been before. Raises CheckpointError for a
    file that is missing, damaged or something else, or whose pickle holds anything but tensors and plain values (none
    of it is executed).
    """
    file = find_checkpoint(path)
    kind = format_of(file)
    if kind == SAFETENSORS:
        return _read_safetensors(file, names)
    if kind == TORCH and verify:
        check_sums(file)
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=kind == TORCH)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"checkpoint {file} is refused: {_refusal(error)}") from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, IndexError, TypeError) as error:
        # The type that torch raises depends on where the file is damaged.
        raise CheckpointError(f"checkpoint {file} is damaged ({_one_line(error)}); copy it again") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {file} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def read_state_dict(path: str | Path, names: Container[str] | None = None, verify: bool = True) -> dict[str, Tensor]:
    """Read a checkpoint's state dict, which may lie under one of WRAPPERS; only the tensors in `names` if given.

    Raises CheckpointError as `read_checkpoint` does, and for a file without tensors.
    """
    content = unwrapped(read_checkpoint(path, names, verify))
    state = {k: v for k, v in content.items() if isinstance(v, Tensor) and (names is None or k in names)}
    if not state and names is None:
        raise CheckpointError(f"checkpoint {find_checkpoint(path)} holds no tensors")
    if without := [name for name, value in state.items() if value.is_meta or value.layout != torch.strided]:
        raise CheckpointError(f"checkpoint {find_checkpoint(path)}: {listed(without)} are sparse, or have no values; "
                              "save plain tensors")
    return state


def unwrapped(content: Mapping) -> Mapping:
    """Return the innermost mapping under WRAPPERS; of weights and their average, the weights."""
    for _ in range(MOST_WRAPPERS):
        inside = (content.get(wrapper) for wrapper in WRAPPERS)
        content = next((inner for inner in inside if isinstance(inner, Mapping)
                        and any(isinstance(value, (Tensor, Mapping)) for value in inner.values())), content)
    return content


def load_module(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into a module, converting to its dtype and device.

    Raises CheckpointError unless every name and shape fits. If `state` has no LoRA, that of the module stays as it is.
    """
    check_shapes(required_tensors(module, state), state, source)
    module.load_state_dict(state, strict=False)  # names were checked above
    check_finite(module.state_dict(), source)


def check_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise CheckpointError, naming the tensors, if values read from `source` are infinite or no numbers."""
    bounds = {name: torch.aminmax(value) for name, value in state.items()
              if value.numel() and value.is_floating_point()}  # twenty times faster than torch.isfinite on a CPU
    wrong = [name for name, (low, high) in bounds.items() if not torch.isfinite(torch.stack((low, high))).all()]
    if wrong:
        dtype = dtype_name(state[wrong[0]].dtype)
        raise CheckpointError(f"checkpoint {source}: values in {listed(wrong)} are infinite or no numbers, in the file "
                              f"or as {dtype}; take an earlier checkpoint, or another dtype")


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
    """Describe which tensors of `state` do not fit `own`: by shape or kind of number, missing, or extra; "" if all do.

    Floating-point numbers of any size fit each other; integers and complex numbers are not converted to them.
    """
    different = [f"{k} is {_shape(state[k])}, wanted {_shape(v)}" for k, v in own.items()
                 if k in state and state[k].shape != v.shape]
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    untyped = [f"{k} is {dtype_name(state[k].dtype)}, wanted {dtype_name(v.dtype)}" for k, v in own.items()
               if k in state and state[k].is_floating_point() != v.is_floating_point()]
    faults = (("shapes differ: ", different), ("types differ: ", untyped), ("missing: ", missing),
              ("not in the model: ", extra))
    return "; ".join(title + listed(names) for title, names in faults if names)


def save_checkpoint(folder: str | Path, iteration: int | str, content: Mapping) -> Path:
    """Write `<folder>/<iteration>/mp_rank_00_model_states.pt`, then the iteration to `latest`; return the file's path.

    `latest` always names a complete checkpoint: the states are flushed to disk before it changes. Raises OSError, which
    names the folder, or DataError, if the system cannot write them, as on a full disk.
    """
    folder = Path(folder)
    partial, final = folder / f".{iteration}.partial", folder / str(iteration)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_states(partial / STATES, content)
        sync_folder(partial)
        if final.exists():  # a folder cannot be replaced atomically, the file in it can
            os.replace(partial / STATES, final / STATES)
        else:
            os.replace(partial, final)
    except OSError as error:
        error.filename = error.filename or str(final)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(folder)
    name_latest(folder, iteration)
    return final / STATES


def write_states(file: Path, content: Mapping) -> None:
    """Write a mapping of tensors and plain values and flush it to disk. Raises OSError if the system cannot."""
    with open(file, "wb") as stream:
        try:
            torch.save(dict(content), stream)
        except RuntimeError as error:  # torch's writer covers what the stream raised
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        stream.flush()
        os.fsync(stream.fileno())


def name_latest(folder: Path, iteration: int | str) -> None:
    """Have `latest` name an iteration, whose files are on disk already."""
    with whole_file(folder / "latest") as latest:
        latest.write_text(str(iteration), encoding="utf-8")


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
