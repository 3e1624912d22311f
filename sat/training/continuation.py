"""A run that is continued: what may have changed since it was saved, and what follows from that."""
import logging
from collections.abc import Iterable, Mapping
from itertools import chain, islice, repeat
from pathlib import Path

from common.errors import ConfigError
from configuration.settings import KEYS

logger = logging.getLogger(__name__)

DIFFERENCES_SHOWN = 5
ARGS = "args."
WEIGHTS_OF = "weights of the "  # keys of encoders' digests
SHOWN_AS = {"model.latent_input": "args.latent_cache being set"}  # by the key that it follows from
STEPS, STAGES, PROCESSES = "args.train_iters", "data.stages", "processes"
# Keys that may change together with the number of processes, so that a step takes as many clips as before.
BATCH = tuple(f"deepspeed.{key}" for key in ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu",
                                             "train_batch_size"))


def steps_of(settings: Mapping) -> int:
    """Return the number of steps that the settings of a run ask for."""
    stages = settings.get(STAGES)
    return settings[STEPS] if stages is None else sum(stage["iters"] for stage in stages)


def check_unchanged(folder: Path, step: int, saved: Mapping, given: Mapping) -> None:
    """Raise ConfigError, naming the differences, if the settings of a run have changed since it saved `step`.

    The number of processes, and with it the division of a batch, may change, and so may the steps that are to come.
    """
    free = {PROCESSES} if saved.get(PROCESSES) == given.get(PROCESSES) else {PROCESSES, *BATCH}
    free |= {key for key, same in ((STEPS, True), (STAGES, _same_stages(step, saved, given))) if same}
    free |= {key for key in saved if key.startswith(ARGS) and key not in given}  # of no effect on this run
    free |= {key for key in given if key.startswith(WEIGHTS_OF) and key not in saved}  # by an earlier version
    saved = {**_defaults(given), **saved}
    changed = [key for key in sorted({*given, *saved} - free) if given.get(key) != saved.get(key)]
    if changed:
        listed = ", ".join(f"{SHOWN_AS.get(key, key)} from {saved.get(key)} to {given.get(key)}"
                           for key in changed[:DIFFERENCES_SHOWN])
        more = len(changed) - DIFFERENCES_SHOWN
        raise ConfigError(f"the run in {folder} cannot be resumed with a changed configuration: {listed}"
                          f"{f' and {more} more' if more > 0 else ''}; change it back, or start a new run with "
                          "args.load and another args.save")


def clips_of_step(settings: Mapping) -> int | None:
    """Return the clips that a step of a run with these settings takes on all processes; None if they do not say."""
    parts, micro, total = (settings.get(key) for key in BATCH)
    return total if micro is None else micro * (parts or 1) * settings.get(PROCESSES, 1)


def _defaults(given: Mapping) -> dict:
    """Return the defaults of the keys of `args`, which a run of an earlier version did not save."""
    return {key: KEYS[key.removeprefix(ARGS)].default for key in given if key.startswith(ARGS)}


def has_ended(folder: Path, step: int, steps: int, key: str) -> bool:
    """Return True, and log it, if a run of so many `steps`, which `key` sets, has taken all of them.

    Raises ConfigError if it has taken more.
    """
    if step > steps:
        raise ConfigError(f"the run in {folder} has taken {step} steps already, and {key} asks for {steps}; ask for "
                          "more, or start a new run with args.load and another args.save")
    if step == steps:
        logger.info("%s: the run has ended with step %d, nothing is left to do; to go on, ask for more steps with %s",
                    folder, step, key)
    return step == steps


def _same_stages(step: int, saved: Mapping, given: Mapping) -> bool:
    """Return True if the steps taken so far are those of the stages that are asked for now, as far as these go."""
    if not (saved.get(STAGES) and given.get(STAGES)):
        return False
    taken, asked = list(_taken(saved[STAGES], step)), list(_taken(given[STAGES], step))
    return taken[:len(asked)] == asked


def _taken(stages: Iterable[Mapping], step: int) -> Iterable[dict]:
    """Yield, for each of the first steps, the settings of the stage that it belongs to."""
    every = chain.from_iterable(repeat({**stage, "iters": None}, stage["iters"]) for stage in stages)
    return islice(every, step)
