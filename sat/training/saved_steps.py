"""The steps that a run folder holds, and the one that `latest` names."""
import re
from pathlib import Path

from common.errors import CheckpointError, ConfigError
from common.listing import listed
from common.text import read_text
from weights.checkpoint import STATES

STATE = "training"
AUTOENCODER = "3d-vae.pt"
LOG = "log.jsonl"
SHOWN = 40  # characters of a damaged `latest`


def state_file(folder: Path, step: int, rank: int) -> Path:
    """Return the path of a process's state after a step."""
    return folder / STATE / f"{step}_rank_{rank:02d}.pt"


def state_files(folder: Path) -> dict[int, list[Path]]:
    """Return the files below `training/` by their step."""
    found: dict[int, list[Path]] = {}
    for path in (folder / STATE).glob("*_rank_*.pt"):
        if match := re.fullmatch(r"(\d+)_rank_\d+\.pt", path.name):
            found.setdefault(int(match[1]), []).append(path)
    return found


def resumable_steps(folder: Path) -> list[int]:
    """Return the steps from which the run can go on, in order."""
    return sorted(step for step in state_files(folder) if state_file(folder, step, 0).is_file())


def latest_step(folder: Path) -> int | None:
    """Return the step that `latest` names, which can be resumed; None if nothing has been saved in the folder.

    Raises CheckpointError if `latest` is missing beside saved steps, is damaged, or names none of them.
    """
    latest = folder / "latest"
    if not latest.exists():
        if _is_saved_in(folder):
            raise CheckpointError(f"{folder} holds a run, but no file `latest` that names a step; {_remedy(folder)}")
        return None
    name = read_text(latest).strip()
    if not re.fullmatch(r"[0-9]{1,18}", name):
        raise CheckpointError(f"{latest} holds {name[:SHOWN]!r}, which is no saved step; {_remedy(folder)}")
    if not state_file(folder, int(name), 0).is_file():
        raise CheckpointError(f"{latest} names step {name}, but {state_file(folder, int(name), 0)} is missing; "
                              f"{_remedy(folder)}")
    return int(name)


def check_unused(folder: Path) -> None:
    """Raise ConfigError if the folder already holds a run, whether or not it has a checkpoint."""
    named = (folder / "latest").exists()
    if named or _is_saved_in(folder):
        way = "resume it with --resume" if named else f"`latest`, which names a step, is missing: {_remedy(folder)}"
        raise ConfigError(f"args.save {folder} holds the checkpoints of a run already; {way}, or choose another folder")
    if (folder / LOG).exists():
        raise ConfigError(f"args.save {folder} holds the {LOG} of a run that saved no checkpoint; begin it again with "
                          "--resume, or choose another folder")


def _is_saved_in(folder: Path) -> bool:
    """Return True if there are checkpoints or states of a run, though perhaps no `latest`."""
    return bool(state_files(folder) or _checkpoints(folder) or (folder / AUTOENCODER).exists())


def _checkpoints(folder: Path) -> list[Path]:
    """Return the transformer's checkpoints; a number for a name makes no folder a checkpoint."""
    return [path for path in folder.glob(f"*/{STATES}") if path.parent.name.isdecimal()]


def _remedy(folder: Path) -> str:
    if steps := resumable_steps(folder):
        names = listed(reversed(steps), most=len(steps))
        return (f"the steps {names} are there: write one, such as {steps[-1]}, into {folder / 'latest'} and continue "
                "with --resume")
    return "there is no step to resume from: start a new run with args.load and another args.save"
