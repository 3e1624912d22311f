"""Finishing of videos in a thread of its own while the next are sampled: their files alone, or their decoding, too.

Videos are the same as without it, byte for byte. An error of the thread is raised in the thread that samples. An error
there waits until what was sampled before is finished; an interrupt does not, and files that are not whole disappear.
"""
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from configuration.model import MAX
from configuration.settings import DECODING, Arguments
from inference.circumstances import group_sizes
from memory.prefetch import computing, new_stream

logger = logging.getLogger(__name__)

CHUNKS_WAITING = 2  # between the thread that decodes and the one that encodes
SECONDS = 0.1  # between looks for the end of the other thread
Finish = Callable[[Iterator[Tensor]], Any]


class Stopped(Exception):
    """The end of a video that is not to be finished."""


class AtOnce:
    """Finishes each video where it was sampled."""

    shows_progress = True

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def run(self, finish: Finish, frames: Iterable[Tensor]) -> None:
        finish(iter(frames))

    def wait(self) -> None:
        """Nothing is unfinished."""


class Overlapped:
    """Finishes videos in a thread, in order.

    `decodes`: the thread also decodes, on a stream of its own if the device has streams; else this one decodes, and a
    chunk of frames is encoded there while the next is decoded here.
    """

    def __init__(self, device: torch.device, decodes: bool):
        self.shows_progress = not decodes
        self._device, self._decodes = device, decodes
        self._stream = new_stream(device) if decodes else None
        self._stop = threading.Event()
        self._unfinished: list[Future] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finishing")

    def __enter__(self) -> "Overlapped":
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, *rest: object) -> None:
        try:
            if raised is None:
                self.wait()
        except BaseException as error:
            raised = error
            raise
        finally:
            if raised is not None and not isinstance(raised, Exception):  # an interrupt
                self._stop.set()
            self._thread.shutdown(wait=True, cancel_futures=self._stop.is_set())
            self._log_lost(raised)

    def _log_lost(self, raised: BaseException | None) -> None:
        """Log what kept videos from being finished where another error ends the run, which alone is raised."""
        for future in self._unfinished if raised is not None else ():
            error = None if future.cancelled() or not future.done() else future.exception()
            if isinstance(error, Exception) and not isinstance(error, Stopped) and error is not raised:
                logger.warning("a video before could not be finished: %s", " ".join(str(error).split())[:200])

    def run(self, finish: Finish, frames: Iterable[Tensor]) -> None:
        """Have `finish` called in the thread, with the chunks of frames that decoding yields."""
        if self._decodes:
            sampled = None if self._stream is None else computing(self._device).record_event()
            self._unfinished.append(self._thread.submit(self._decode, finish, frames, sampled))
            return
        handed: queue.Queue = queue.Queue(CHUNKS_WAITING)
        future = self._thread.submit(finish, self._received(handed))
        self._unfinished.append(future)
        last: Any = Stopped
        try:
            for chunk in frames:
                self._hand(chunk, handed, future)
            last = None
        finally:
            self._hand(last, handed, future)

    def wait(self) -> None:
        """Wait until every video is finished. Raises the first error of one."""
        while self._unfinished:
            self._unfinished.pop(0).result()

    def _decode(self, finish: Finish, frames: Iterable[Tensor], sampled: torch.Event | None) -> None:
        """Decode and finish, on the thread's own stream after what was `sampled` until the video was handed over."""
        with self._stream or nullcontext():
            if self._stream is not None and sampled is not None:
                self._stream.wait_event(sampled)
            finish(self._unless_stopped(frames))

    def _unless_stopped(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        for chunk in frames:
            if self._stop.is_set():
                raise Stopped
            yield chunk

    def _received(self, handed: queue.Queue) -> Iterator[Tensor]:
        while True:
            try:
                chunk = handed.get(timeout=SECONDS)
            except queue.Empty:
                if self._stop.is_set():
                    raise Stopped from None
                continue
            if chunk is Stopped:
                raise Stopped
            if chunk is None:
                return
            yield chunk

    def _hand(self, chunk: Any, handed: queue.Queue, future: Future) -> None:
        """Hand a chunk over. Raises the error of the thread, if it has ended with one."""
        while not future.done():
            try:
                handed.put(chunk, timeout=SECONDS)
                return
            except queue.Full:
                continue
        future.result()


def finisher(args: Arguments, device: torch.device) -> AtOnce | Overlapped:
    """Return what finishes the videos of a run, as `args.overlap` says.

    Latents alone, processes that make a video together, and pictures of the steps, which are decoded with it, leave
    nothing to overlap, the last unless the thread decodes.
    """
    how, settings = args.sampling.overlap, args.sampling
    pictures = settings.save_denoised_every is not None and how != DECODING
    if how is None or pictures or settings.only_save_latents or _divided(args):
        return AtOnce()
    return Overlapped(device, decodes=how == DECODING)


def check_overlap(args: Arguments) -> None:
    """Raise ConfigError if decoding cannot run beside sampling."""
    if args.sampling.overlap != DECODING:
        return
    reasons = {"args.offload, which has one part at a time on the device": args.memory.offload is not None,
               f"model.compile_model: {MAX}, which records what the device computes":
                   args.model_config.get("compile_model") == MAX,
               "processes that make one video together, which wait for each other": _divided(args)}
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(f"args.overlap: {DECODING} does not work with {reason}; use saving, or leave it out")


def _divided(args: Arguments) -> bool:
    return any(size > 1 for size in group_sizes(args).by_key().values())
