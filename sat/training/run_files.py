"""The run folder: checkpoints of averaged weights to sample with, and the state needed to resume from each.

`latest` names the last saved step. The transformer's checkpoints are `<save>/<step>/`, in the layout of
`checkpoint.save_checkpoint`; the autoencoder's is `<save>/3d-vae.pt`. `<save>/training/<step>_rank_NN.pt` holds each
process's optimizer state, and rank 0's file also holds the state that all ranks share. Every file is whole or absent,
the files of a step are on disk before `latest` names it, and what `latest` names is never removed. A run whose process
is killed at any moment, or whose disk fills up, can therefore still be sampled with and resumed.
"""
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from common.errors import CheckpointError, ConfigError
from common.files import whole_file
from common.ranks import any_of, is_main_process, rank, wait_for_all
from training.run_state import RunState
from weights.checkpoint import NETWORK_PREFIX, STATES, name_latest, read_checkpoint, save_checkpoint
from weights.lora import HEADER

logger = logging.getLogger(__name__)

STATE = "training"
AUTOENCODER = "3d-vae.pt"
DIFFERENCES_SHOWN = 5


def begin(folder: Path, resume: bool, settings: Mapping) -> RunState | None:
    """Return the state to resume from, or None for a new run; called on all ranks before anything is written.

    Raises ConfigError if a new run would overwrite another, or a resumed one has other settings; CheckpointError if
    files are missing or damaged.
    """
    state = None
    if resume:
        state = read_latest(folder, settings)
        logger.info("%s: %s", folder, "no checkpoint yet" if state is None else f"resuming at step {state.step}")
    else:
        check_unused(folder)
    clear_unfinished(folder)
    return state


def write_transformer(folder: Path, state: RunState) -> None:
    """Write the averaged weights as a checkpoint of the transformer, and have `latest` name it."""
    module = {NETWORK_PREFIX + name: value for name, value in {**state.network, **state.average}.items()}
    header = {} if state.lora is None else {HEADER: state.lora}
    save_checkpoint(folder, state.step, {"module": module, "iteration": state.step} | header)


def write_autoencoder(folder: Path, state: RunState) -> None:
    """Write the averaged weights in float16 as released autoencoders are stored, and have `latest` name the step."""
    weights = {name: value.half() for name, value in {**state.network, **state.average}.items()}
    _write(folder / AUTOENCODER, {"state_dict": weights})
    name_latest(folder, state.step)


def save(folder: Path, state: RunState, keep: int,
         write_checkpoint: Callable[[Path, RunState], None] = write_transformer) -> None:
    """Write a checkpoint and its state, then remove all but the last `keep`; called on all ranks.

    `keep` <= 0 removes none. Raises CheckpointError on every rank if any rank could not write.
    """
    own = vars(state) if is_main_process() else {"step": state.step, "optimizer": state.optimizer}
    _written(folder, state.step, lambda: _write(_state_file(folder, state.step, rank()), own))
    _written(folder, state.step, lambda: write_checkpoint(folder, state) if is_main_process() else None)
    if is_main_process():
        _remove_old(folder, state.step, keep, folders=write_checkpoint is write_transformer)
    wait_for_all()


def _written(folder: Path, step: int, write) -> None:
    """Call `write` on every rank; raises CheckpointError on all of them if it failed on any."""
    problem = None
    try:
        write()
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        problem = error
    if any_of(problem is not None):
        reason = " ".join(str(problem or "another process could not write").split())[:120]
        before = _latest(folder)
        kept = "there is no earlier checkpoint" if before is None else f"the checkpoint of step {before} is intact"
        raise CheckpointError(f"step {step} could not be saved in {folder} ({reason}); {kept}: free some disk space "
                              "and continue with --resume") from problem


def _write(path: Path, content: Mapping) -> None:
    with whole_file(path) as unfinished:
        torch.save(dict(content), unfinished)


def read_latest(folder: Path, settings: Mapping) -> RunState | None:
    """Return this process's state at the step that `latest` names, or None if nothing has been saved yet.

    Raises ConfigError, naming the difference, if settings have changed, and CheckpointError if files are missing or
    damaged.
    """
    step = _latest(folder)
    if step is None:
        return None
    file = _state_file(folder, step, 0)
    if not file.is_file():
        raise CheckpointError(f"{folder}/latest names step {step}, but {file} is missing; start a new run with "
                              "args.load and another args.save")
    state = RunState(**read_checkpoint(file))
    check_unchanged(folder, state.settings, settings)
    own = _state_file(folder, step, rank())
    if not own.is_file():
        raise CheckpointError(f"{own}, from which rank {rank()} resumes, is missing; start a new run with args.load "
                              "and another args.save")
    if is_main_process():
        return state
    return RunState(**vars(state) | {"optimizer": read_checkpoint(own)["optimizer"]})


def check_unchanged(folder: Path, saved: Mapping, given: Mapping) -> None:
    """Raise ConfigError, naming the differences, if the settings of a run have changed since it was saved."""
    changed = [key for key in sorted({*given, *saved}) if given.get(key) != saved.get(key)]
    if changed:
        listed = ", ".join(f"{key} from {saved.get(key)} to {given.get(key)}" for key in changed[:DIFFERENCES_SHOWN])
        more = len(changed) - DIFFERENCES_SHOWN
        raise ConfigError(f"the run in {folder} cannot be resumed with a changed configuration: {listed}"
                          f"{f' and {more} more' if more > 0 else ''}; change it back, or start a new run with "
                          "args.load and another args.save")


def check_unused(folder: Path) -> None:
    """Raise ConfigError if the folder already holds the checkpoints of a run."""
    if any((folder / name).exists() for name in ("latest", AUTOENCODER)):
        raise ConfigError(f"args.save {folder} holds the checkpoints of a run already; resume it with --resume, or "
                          "choose another folder")


def clear_unfinished(folder: Path) -> None:
    """Remove the partial files of processes that were killed while writing; called on all ranks before any save."""
    if is_main_process():
        for path in [*folder.glob(".*.partial*"), *(folder / STATE).glob(".*.partial*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_for_all()


def _latest(folder: Path) -> str | None:
    return (folder / "latest").read_text().strip() if (folder / "latest").is_file() else None


def _state_file(folder: Path, step: int | str, rank: int) -> Path:
    return folder / STATE / f"{step}_rank_{rank:02d}.pt"


def _remove_old(folder: Path, current: int, keep: int, folders: bool) -> None:
    """Remove the files of all but the last `keep` steps that this run saved, and nothing else in its folder.

    Only a step whose state is in `training/` was saved by a run here; a number for a name makes no folder a checkpoint.
    `folders`: each step also has a checkpoint in a folder of its own.
    """
    if keep <= 0:
        return
    states: dict[int, list[Path]] = {}
    for path in (folder / STATE).iterdir():
        if found := re.fullmatch(r"(\d+)_rank_\d+\.pt", path.name):
            states.setdefault(int(found[1]), []).append(path)
    others = sorted(states.keys() - {current})
    for step in others[:max(len(others) - (keep - 1), 0)]:
        if folders:
            _remove_checkpoint(folder / str(step))
        for path in states[step]:
            path.unlink()


def _remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint's file, and its folder unless it holds something else."""
    (folder / STATES).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
