"""The run folder: checkpoints of averaged weights to sample with, and the state needed to resume from each.

`latest` names the last saved step. The transformer's checkpoints are `<save>/<step>/`, in the layout of
`checkpoint.save_checkpoint`; the autoencoder's is `<save>/3d-vae.pt`. `<save>/training/<step>_rank_NN.pt` holds each
process's optimizer state, and rank 0's file also holds the state that all ranks share. Every file is whole or absent,
the files of a step are on disk before `latest` names it, and what `latest` names is never removed. A run whose process
is killed at any moment, or whose disk fills up, can therefore still be sampled with and resumed.
"""
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.errors import CheckpointError, NumericalError, UserError
from common.files import whole_file
from common.ranks import any_of, is_main_process, rank, wait_for_all, world_size
from common.text import read_text
from training.continuation import PROCESSES, check_unchanged, clips_of_step
from training.run_state import RunState, state_of
from training.saved_steps import AUTOENCODER, STATE, check_unused, latest_step, state_file, state_files
from training.soundness import fault_of
from weights.checkpoint import NETWORK_PREFIX, STATES, name_latest, read_checkpoint, save_checkpoint
from weights.lora import HEADER

logger = logging.getLogger(__name__)



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


@dataclass(frozen=True)
class CheckpointKind:
    """The way in which the averaged weights are written; `dtype` is the one that they are converted to, if any."""

    write: Callable[[Path, RunState], None]
    folders: bool  # each step has a checkpoint in a folder of its own
    dtype: torch.dtype | None = None


TRANSFORMER = CheckpointKind(write_transformer, folders=True)
VAE = CheckpointKind(write_autoencoder, folders=False, dtype=torch.float16)


def save(folder: Path, state: RunState, keep: int, kind: CheckpointKind = TRANSFORMER) -> None:
    """Write a checkpoint and its state, then remove all but the last `keep`; called on all ranks.

    `keep` <= 0 removes none. Raises on every rank, and leaves the checkpoint before: NumericalError if anything of the
    state is not finite on any rank, CheckpointError if any rank could not write.
    """
    _check_finite(folder, state, kind.dtype)
    own = vars(state) if is_main_process() else {"step": state.step, "optimizer": state.optimizer}
    file = state_file(folder, state.step, rank())
    try:
        _written(folder, state.step, lambda: _write(file, own))
        _written(folder, state.step, lambda: kind.write(folder, state) if is_main_process() else None)
    except CheckpointError:
        file.unlink(missing_ok=True)  # it would take room, and there is no checkpoint of its step
        raise
    if is_main_process():
        _remove_old(folder, state.step, keep, kind.folders)
    wait_for_all()


def _check_finite(folder: Path, state: RunState, stored: torch.dtype | None) -> None:
    """Raise NumericalError on every rank if what is to be saved is not finite on any."""
    fault = fault_of(state, stored)
    if any_of(fault is not None):
        raise NumericalError(f"{fault or 'a part of another process is not finite'} after step {state.step}, which is "
                             f"not saved; {_kept(folder)}: lower deepspeed.optimizer.params.lr and start a new run, "
                             "with args.load and another args.save")


def _kept(folder: Path) -> str:
    """Say which checkpoint a failed save leaves."""
    before = read_text(folder / "latest").strip() if (folder / "latest").is_file() else None
    return "there is no earlier checkpoint" if before is None else f"the checkpoint of step {before} is intact"


def _written(folder: Path, step: int, write: Callable[[], None]) -> None:
    """Call `write` on every rank; raises CheckpointError on all of them if it failed on any."""
    problem = None
    try:
        write()
    except (OSError, RuntimeError, UserError) as error:  # torch.save reports a full disk as RuntimeError
        problem = error
    if any_of(problem is not None):
        reason = "another process could not write" if problem is None else _cause(problem)
        raise CheckpointError(f"step {step} could not be saved in {folder} ({reason}); {_kept(folder)}: free some "
                              "disk space and continue with --resume") from problem


def _cause(problem: BaseException) -> str:
    """Return the system's error below one of torch, which says less; in one line."""
    inner: BaseException | None = problem
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__context__
    return " ".join(str(problem if inner is None else inner.strerror or inner).split())[:160]


def _write(path: Path, content: Mapping) -> None:
    with whole_file(path) as unfinished, open(unfinished, "wb") as stream:  # a stream's error names its cause
        torch.save(dict(content), stream)


def read_latest(folder: Path, settings: Mapping) -> RunState | None:
    """Return this process's state at the step that `latest` names, or None if nothing has been saved yet.

    Raises ConfigError, naming the difference, if settings have changed, and CheckpointError if files are missing or
    damaged.
    """
    step = latest_step(folder)
    if step is None:
        return None
    file = state_file(folder, step, 0)
    state = state_of(read_checkpoint(file), file)
    if state.step != step or (fault := fault_of(state)):
        reason = f"is of step {state.step}" if state.step != step else f"cannot be used: {fault}"
        raise CheckpointError(f"{file} {reason}; write another saved step into {folder / 'latest'}, or start a new run "
                              "with args.load and another args.save")
    check_unchanged(folder, step, state.settings, settings)
    before = state.settings.get(PROCESSES, 1)
    if before == world_size():
        return replace(state, optimizer=_optimizer_state(folder, step, rank()))
    logger.info("a run of %d process(es) goes on with %d", before, world_size())
    clips = clips_of_step(state.settings), clips_of_step(settings)
    if clips[0] != clips[1]:
        logger.warning("a step takes %s clips in place of %s, and goes on at another place of their order; to take as "
                       "many, change deepspeed.gradient_accumulation_steps", clips[1], clips[0])
    return replace(state, optimizer=tuple(_optimizer_state(folder, step, number) for number in range(before)))


def _optimizer_state(folder: Path, step: int, number: int) -> Mapping:
    file = state_file(folder, step, number)
    if not file.is_file():
        raise CheckpointError(f"{file}, the state of process {number}, is missing; start a new run with args.load and "
                              "another args.save")
    content = read_checkpoint(file)
    if not isinstance(content.get("optimizer"), Mapping) or content.get("step") != step:
        raise CheckpointError(f"{file} is not the state of process {number} at step {step}; copy the folder again")
    return content["optimizer"]


def clear_unfinished(folder: Path) -> None:
    """Remove the partial files of processes that were killed while writing; called on all ranks before any save."""
    if is_main_process():
        for path in [*folder.glob(".*.partial*"), *(folder / STATE).glob(".*.partial*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_for_all()


def _remove_old(folder: Path, current: int, keep: int, folders: bool) -> None:
    """Remove the files of all but the last `keep` steps that this run saved, and nothing else in its folder.

    Steps above the current one, to which the run was set back, neither count nor go: it comes to them again. Only a
    step whose state is in `training/` was saved by a run here; a number for a name makes no folder a checkpoint.
    `folders`: each step also has a checkpoint in a folder of its own.
    """
    if keep <= 0:
        return
    states = state_files(folder)
    others = sorted(step for step in states if step < current)
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
