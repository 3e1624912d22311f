"""A run's folder: checkpoints of averaged weights to sample with, and beside each what an exact continuation needs.

`<save>/<step>/` and `latest` are laid out as `checkpoint.save_checkpoint` says; `<save>/training/<step>_rank_NN.pt`
holds each process's optimizer, and the first process's file all that they share. Every file is whole or absent, those
of a step are on disk before `latest` names it, and what `latest` names is never removed: a process killed at any
moment, or a disk that is full, leaves a run that can be sampled with and resumed.
"""
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from common.errors import CheckpointError, ConfigError
from common.files import whole_file
from common.ranks import any_of, rank_and_count, wait_for_all
from training.run_state import RunState
from weights.checkpoint import NETWORK_PREFIX, read_checkpoint, save_checkpoint
from weights.lora import HEADER

STATE = "training"
DIFFERENCES_SHOWN = 5


def save(folder: Path, state: RunState, keep: int) -> None:
    """Called by every process; the last `keep` checkpoints stay, and older ones go once this one is whole.

    Raises CheckpointError in every process where one of them could not write.
    """
    rank, _ = rank_and_count()
    own = vars(state) if rank == 0 else {"step": state.step, "optimizer": state.optimizer}
    _written(folder, state.step, lambda: _write(_state_file(folder, state.step, rank), own))
    _written(folder, state.step, lambda: rank == 0 and _write_checkpoint(folder, state))
    if rank == 0:
        _remove_old(folder, state.step, keep)
    wait_for_all()


def _written(folder: Path, step: int, write) -> None:
    """Lets every process write its part, and tells all of them whether every one could."""
    problem = None
    try:
        write()
    except (OSError, RuntimeError) as error:  # torch's writer of archives reports a full disk as the latter
        problem = error
    if any_of(problem is not None):
        reason = " ".join(str(problem or "another process could not write").split())[:120]
        before = _latest(folder)
        kept = "nothing was saved before" if before is None else f"the checkpoint of step {before} is as it was"
        raise CheckpointError(f"step {step} could not be saved in {folder} ({reason}); {kept}: make room there and go "
                              "on with --resume") from problem


def _write(path: Path, content: Mapping) -> None:
    with whole_file(path) as unfinished:
        torch.save(dict(content), unfinished)


def _write_checkpoint(folder: Path, state: RunState) -> None:
    module = {NETWORK_PREFIX + name: value for name, value in {**state.network, **state.average}.items()}
    header = {} if state.lora is None else {HEADER: state.lora}
    save_checkpoint(folder, state.step, {"module": module, "iteration": state.step} | header)


def read_latest(folder: Path, settings: Mapping) -> RunState | None:
    """This process's state at the step that `latest` names; None where nothing was saved yet.

    Raises ConfigError that names what changed since, CheckpointError for files that are missing or damaged.
    """
    step = _latest(folder)
    if step is None:
        return None
    rank, _ = rank_and_count()
    file = _state_file(folder, step, 0)
    if not file.is_file():
        raise CheckpointError(f"{folder}/latest names step {step}, but {file} is missing; start anew with args.load "
                              "and another args.save")
    state = RunState(**read_checkpoint(file))
    check_unchanged(folder, state.settings, settings)
    own = _state_file(folder, step, rank)
    if not own.is_file():
        raise CheckpointError(f"{own}, which process {rank} goes on from, is missing; start anew with args.load and "
                              "another args.save")
    return state if rank == 0 else RunState(**vars(state) | {"optimizer": read_checkpoint(own)["optimizer"]})


def check_unchanged(folder: Path, saved: Mapping, given: Mapping) -> None:
    """Raises ConfigError that names what differs between a run and its continuation."""
    changed = [key for key in sorted({*given, *saved}) if given.get(key) != saved.get(key)]
    if changed:
        listed = ", ".join(f"{key} from {saved.get(key)} to {given.get(key)}" for key in changed[:DIFFERENCES_SHOWN])
        more = len(changed) - DIFFERENCES_SHOWN
        raise ConfigError(f"the run in {folder} cannot be resumed with a changed configuration: {listed}"
                          f"{f' and {more} more' if more > 0 else ''}; change it back, or start anew with args.load "
                          "and another args.save")


def check_unused(folder: Path) -> None:
    """Raises ConfigError where a new run would overwrite the checkpoints of another."""
    if (folder / "latest").exists():
        raise ConfigError(f"args.save {folder} holds the checkpoints of a run already; continue it with --resume, or "
                          "choose another folder")


def clear_unfinished(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left; before the run's first save."""
    if rank_and_count()[0] == 0:
        for path in [*folder.glob(".*.partial*"), *(folder / STATE).glob(".*.partial*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_for_all()


def _latest(folder: Path) -> str | None:
    return (folder / "latest").read_text().strip() if (folder / "latest").is_file() else None


def _state_file(folder: Path, step: int | str, rank: int) -> Path:
    return folder / STATE / f"{step}_rank_{rank:02d}.pt"


def _remove_old(folder: Path, current: int, keep: int) -> None:
    states = {path: int(found[1]) for path in (folder / STATE).iterdir()
              if (found := re.fullmatch(r"(\d+)_rank_\d+\.pt", path.name))}
    checkpoints = {path: int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()}
    steps = sorted({*states.values(), *checkpoints.values()} - {current})
    old = steps[:len(steps) - (keep - 1)] if keep > 0 else []
    for path, step in (states | checkpoints).items():
        if step in old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
