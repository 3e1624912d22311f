"""Measurements of this processor, remembered in the user's cache folder for later runs."""
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch

from common.errors import DataError
from common.files import cache_folder, whole_file
from common.machine import processor

logger = logging.getLogger(__name__)

ROUNDS = 7
SHORT = 0.05  # seconds of a measurement that say nothing about other programs
INSTRUCTIONS = ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "bf16", "fp16")  # beside torch's own classes
STARVED = 0.8  # of one processor's time: with less of it, others had the rest
Result = TypeVar("Result")


def remembered(what: str, measure: Callable[[], Any]) -> Any:
    """Return the result of `measure()`, a JSON value, or what it was when this processor was measured before.

    It is called in a thread of its own, outside of what is set for this one but whether gradients are: modes of torch
    and hooks of saved tensors would count what it computes, or compute something else. What is measured while other
    programs take the processor from this one is not remembered.
    A cache folder that cannot be read or written costs a measurement in every process, and nothing else.
    """
    path = _path()
    known = {} if path is None else _read(path)
    if what in known:
        return known[what]
    begin, worked = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(1) as thread:
        value = thread.submit(torch.set_grad_enabled(torch.is_grad_enabled())(measure)).result()
    spent, worked = time.perf_counter() - begin, time.process_time() - worked
    if spent > SHORT and worked < STARVED * spent:
        logger.debug("measured, but not remembered, since other programs take the processor: %s", what)
    elif path is not None:
        _keep(path, {**_read(path), what: value})
    return value


def fastest(ways: Mapping[str, Callable[[], object]], gain: float = 1.0) -> str:
    """Return the name of the way that takes the least time, or of the first if no other is `gain` times as fast.

    The ways take turns, after one run of each, and the median of each counts: where others share the processor's
    units, single runs can take half the time of most. One thread is measured by its processor time, which other
    programs do not lengthen.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            start = clock()
            way()
            spent[name].append(clock() - start)
    usual = {name: statistics.median(seconds[1:]) for name, seconds in spent.items()}
    logger.debug("measured: %s", ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in usual.items()))
    first, best = next(iter(ways)), min(usual, key=lambda name: usual[name])
    return best if gain * usual[best] < usual[first] else first


def once(measure: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function that returns something measured: it is called once for each number of threads."""
    kept = cache(lambda threads, *given, **named: measure(*given, **named))

    @wraps(measure)
    def measured(*given, **named):
        return kept(torch.get_num_threads(), *given, **named)

    measured.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return measured


def device_name() -> str:
    """Return the processor, its instructions, threads and torch's version: what a measurement depends on."""
    there = torch.cpu.get_capabilities()
    instructions = " ".join(name for name in INSTRUCTIONS if there.get(name))
    return (f"{_processor()}, {torch.backends.cpu.get_cpu_capability()} {instructions}, {torch.get_num_threads()} "
            f"thread(s), torch {torch.__version__}")


@cache
def _processor() -> str:
    return processor(torch.device("cpu"))


def _path() -> Path | None:
    """Return the file of this processor's measurements; None without a cache folder."""
    folder = cache_folder()
    name = "".join(letter if letter.isalnum() or letter in ".+" else "_" for letter in device_name())
    return None if folder is None else folder / f"measured_{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(path: Path, known: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    except (OSError, DataError) as error:
        logger.debug("measurements are not remembered: %s", error)
