"""Sampling of videos in segments: frames of one are decoded, and the next continues them."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configuration.settings import Arguments
from diffusion_video import DiffusionEngine
from inference.continuing import Segment
from inference.jobs import Job
from inference.pipeline import Conditions, Trace, Watch, sample_latents


@dataclass(frozen=True)
class Sampled:
    """The result of sampling a batch: latents (B, T, C, h, w), of the last segment if there are several.

    `before` has for each video the frames (3, t, H, W) before those of its latents, of which the first `dropped` are
    there already.
    """

    latents: Tensor
    trace: Trace
    before: Sequence[Tensor | None]
    dropped: int = 0


def sample_batch(engine: DiffusionEngine, batch: Sequence[Job], conditions: Conditions, args: Arguments,
                 watch: Watch | None = None) -> Sampled:
    """Sample the latents of a batch, segment by segment. `watch` is called after every step of each."""
    segments = batch[0].segments
    if segments is None:
        return Sampled(*sample_latents(engine, batch, conditions, args, watch), [None] * len(batch))
    before = [job.clip() if job.prompt.clip is not None else None for job in batch]
    trace: Trace | None = None
    for number in range(segments.count):
        is_last = number == segments.count - 1
        tails = [segments.tail(frames).float() for frames in before if frames is not None]
        segment = Segment(number, torch.stack(tails) if tails else None, is_last)
        latents, course = sample_latents(engine, batch, conditions, args, watch, segment)
        trace = course if trace is None else trace + course
        dropped = segments.kept_frames if tails else 0
        if not is_last:
            before = [_joined(engine, frames, row, dropped) for frames, row in zip(before, latents, strict=True)]
    assert trace is not None
    return Sampled(latents, trace, before, dropped)


def _joined(engine: DiffusionEngine, before: Tensor | None, latents: Tensor, dropped: int) -> Tensor:
    """Return the frames of a video so far, with those of a segment's latents (T, C, h, w) at their end."""
    chunks = [chunk[0].clamp(-1, 1).half().cpu() for chunk in engine.decode_chunks(latents[None].transpose(1, 2))]
    return torch.cat([*([] if before is None else [before]), *without_first(chunks, dropped)], dim=1)


def without_first(chunks: Sequence[Tensor] | Iterator[Tensor], dropped: int) -> Iterator[Tensor]:
    """Yield chunks of frames (3, t, H, W) without the first `dropped` frames of all."""
    for chunk in chunks:
        rest = chunk[:, dropped:]
        dropped = max(dropped - chunk.shape[1], 0)
        if rest.shape[1]:
            yield rest
