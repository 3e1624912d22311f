"""Sampling of videos in segments: frames of one are decoded, and the next continues them."""
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configuration.settings import Arguments
from diffusion_video import DiffusionEngine
from engine.first_stage import LatentCodec
from inference.continuing import Segment
from inference.jobs import Job
from inference.pipeline import Conditions, Trace, Watch, sample_latents


@dataclass(frozen=True)
class Sampled:
    """The result of sampling a batch: latents (B, T, C, h, w), of the last segment if there are several.

    `before` has for each video the frames (3, t, H, W) before those of its latents, of which the first `dropped` are
    there already. `inverted` (B, T, C, h, w) is the noise that clips were inverted to, if any were.
    """

    latents: Tensor
    trace: Trace
    before: Sequence[Tensor | None]
    dropped: int = 0
    inverted: Tensor | None = None

    def frames(self, codec: LatentCodec, row: int) -> Iterator[Tensor]:
        """Decode a video of the batch; yield its frames (3, t, H, W) in chunks of time."""
        return frames_of(codec, self.latents[row], self.before[row], self.dropped)


def frames_of(codec: LatentCodec, latents: Tensor, before: Tensor | None = None, dropped: int = 0) -> Iterator[Tensor]:
    """Decode latents (T, C, h, w); yield frames (3, t, H, W) in chunks of time.

    The frames `before` come first; the first `dropped` of the decoded frames are left out.
    """
    frames = without_first((chunk[0] for chunk in codec.decode_latents(latents[None])), dropped)
    return frames if before is None else itertools.chain([before], frames)


def sample_batch(engine: DiffusionEngine, batch: Sequence[Job], conditions: Conditions, args: Arguments,
                 watch: Watch | None = None, show: bool = True) -> Sampled:
    """Sample the latents of a batch, segment by segment. `watch` is called after every step of each.

    `show`: with a progress bar.
    """
    segments = batch[0].segments
    if segments is None:
        made = sample_latents(engine, batch, conditions, args, watch, show=show)
        return Sampled(made.latents, made.trace, [None] * len(batch), inverted=made.inverted)
    before = [job.clip() if job.prompt.clip is not None else None for job in batch]
    trace: Trace | None = None
    for number in range(segments.count):
        is_last = number == segments.count - 1
        tails = [segments.tail(frames).float() for frames in before if frames is not None]
        segment = Segment(number, torch.stack(tails) if tails else None, is_last)
        latents, course, _ = sample_latents(engine, batch, conditions, args, watch, segment, show)
        trace = course if trace is None else trace + course
        dropped = segments.kept_frames if tails else 0
        if not is_last:
            before = [_joined(engine, frames, row, dropped) for frames, row in zip(before, latents, strict=True)]
    assert trace is not None
    return Sampled(latents, trace, before, dropped)


def _joined(engine: DiffusionEngine, before: Tensor | None, latents: Tensor, dropped: int) -> Tensor:
    """Return the frames of a video so far, with those of a segment's latents (T, C, h, w) at their end."""
    chunks = [chunk.clamp(-1, 1).half().cpu() for chunk in frames_of(engine, latents)]
    return torch.cat([*([] if before is None else [before]), *without_first(chunks, dropped)], dim=1)


def without_first(chunks: Sequence[Tensor] | Iterator[Tensor], dropped: int) -> Iterator[Tensor]:
    """Yield chunks of frames (3, t, H, W) without the first `dropped` frames of all."""
    for chunk in chunks:
        rest = chunk[:, dropped:]
        dropped = max(dropped - chunk.shape[1], 0)
        if rest.shape[1]:
            yield rest
