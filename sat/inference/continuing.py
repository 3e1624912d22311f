"""Videos in segments: each keeps the last latent frames of what was before it, a clip or a segment, and goes on."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.compression import Compression
from common.errors import ConfigError, DataError
from common.machine import physical_memory
from configuration.settings import SamplingSettings
from configuration.targets import instantiate_from_config
from inference.sizes import ModelLimits, VideoPlan, choose_frames, plan_video
from media.clips import ClipFormat, UnreadableClip, probe_clip, read_clip
from sgm.sampling import Continuing, Sampler

LONGEST_CLIP = 481  # frames: a minute at 8 a second, all of which become part of the video


@contextmanager
def clip_named(path: str) -> Iterator[None]:
    """Context manager for reading a clip: what is wrong with it becomes a DataError that names its file."""
    try:
        yield
    except UnreadableClip as problem:
        raise DataError(f"clip {path}: {problem}; give a whole video file, such as an mp4") from problem


@dataclass(frozen=True)
class Segments:
    """The `count` segments of a video, each of as many frames as the model makes at a time.

    A segment keeps the last `kept` latent frames of what was before it. `before` counts the frames of the clip that the
    first one continues, all of which the video starts with; 0 if it starts from noise.
    """

    count: int
    kept: int
    compression: Compression
    before: int = 0

    @property
    def kept_frames(self) -> int:
        """The frames that the kept latent frames stand for; the first one stands for one."""
        return self.compression.video_frames(self.kept)

    def frames(self, of_segment: int) -> int:
        """Return the frames of the whole video from those of a segment."""
        new = of_segment - self.kept_frames
        return self.before + self.count * new if self.before else of_segment + (self.count - 1) * new

    def after(self, path: str, plan: VideoPlan) -> "Segments":
        """Return these segments after a clip. Raises DataError for a clip that is too short, too long, or unreadable.
        """
        with clip_named(path):
            frames = probe_clip(path, _whole(plan, LONGEST_CLIP + self.compression.time))[2]
        if frames < self.kept_frames:
            raise DataError(f"clip {path} is too short: {frames} frames at {plan.fps} a second, where {self.kept} kept "
                            f"latent frames stand for {self.kept_frames}; give a longer clip, or --continue-from "
                            f"{self.compression.latent_frames(frames)}")
        if frames > LONGEST_CLIP:
            raise DataError(f"clip {path} is too long: all of it becomes part of the video, which can be "
                            f"{LONGEST_CLIP} frames at {plan.fps} a second; cut it to the part to be continued")
        return replace(self, before=frames)

    def clip(self, path: str, plan: VideoPlan) -> Tensor:
        """Return the clip (3, before, H, W) in [-1, 1] at the video's size and rate, in half precision."""
        length = self.compression.video_frames(self.compression.latent_frames(self.before - 1) + 1)
        return read_clip(path, _whole(plan, length))[0][:self.before].half().transpose(0, 1)

    def tail(self, frames: Tensor) -> Tensor:
        """Return the frames (3, kept_frames, H, W) of a video that its next segment keeps."""
        return frames[:, -self.kept_frames:]


@dataclass(frozen=True)
class Segment:
    """One segment of the videos of a batch; `kept` are the frames (B, 3, t, H, W) that it continues, None at a start.
    """

    number: int = 0
    kept: Tensor | None = None
    is_last: bool = True

    def named(self, purpose: str) -> str:
        """Return the purpose of random numbers, other ones for each segment."""
        return f"{purpose} of segment {self.number}" if self.number else purpose


ONLY = Segment()


def _whole(plan: VideoPlan, frames: int) -> ClipFormat:
    return ClipFormat((plan.height, plan.width), plan.fps, frames)


def continues(settings: SamplingSettings) -> bool:
    return settings.continue_from is not None or settings.segments is not None


def usual_kept(latents: int) -> int:
    """Return how many of a segment's latent frames are kept where their number is not given: 3 of 5, 7 of 13."""
    return max(3 * latents // 5, 1)


def segments_of(settings: SamplingSettings, limits: ModelLimits) -> Segments | None:
    """Return the segments that the settings ask for, None without them.

    Raises ConfigError for more kept latent frames than leave one to sample.
    """
    if not continues(settings):
        return None
    frames = choose_frames(limits, settings.num_frames, settings.sampling_num_frames)
    latents = limits.real_latents(frames)
    usual = usual_kept(latents)
    kept = usual if settings.continue_from is None else settings.continue_from
    if latents < 2:
        raise ConfigError(f"a segment of {frames} frame has nothing to continue with; give --num-frames")
    if kept >= latents:
        raise ConfigError(f"args.continue_from is {kept}, but a segment of {frames} frames has {latents} latent "
                          f"frames, of which at least one must be new; give at most {latents - 1} (usual: {usual})")
    return Segments(settings.segments or 1, kept, limits.compression)


def check_segments(settings: SamplingSettings, limits: ModelLimits, sampler_config: Mapping,
                   sampler: Sampler | None = None) -> Segments | None:
    """Return the segments that the settings ask for. Raises ConfigError for what segments cannot be combined with.

    `sampler` None is that of `sampler_config`.
    """
    segments = segments_of(settings, limits)
    if segments is None:
        if settings.continue_rounds is not None:
            raise ConfigError("args.continue_rounds has an effect only with args.segments or args.continue_from; give "
                              "one of them, or leave it out")
        return None
    asked = "args.continue_from" if settings.continue_from is not None else "args.segments"
    if settings.strength is not None or settings.invert:
        other = "args.invert" if settings.invert else "args.strength"
        raise ConfigError(f"{asked} and {other} exclude each other: one goes on from the end of a clip, the other "
                          "changes a clip; give one of them")
    if settings.only_save_latents:
        raise ConfigError(f"{asked} and args.only_save_latents exclude each other: segments are joined as frames, and "
                          "have no common latents; leave one of them out")
    if (instantiate_from_config(sampler_config) if sampler is None else sampler).fixed_frames:
        raise ConfigError(f"{asked} chooses the frames that are kept; leave sampler_config.params.fixed_frames out")
    if segments.count == 1 and settings.continue_from is None and settings.continue_rounds is not None:
        raise ConfigError("args.continue_rounds has no effect on a single segment, which continues nothing; give more "
                          "args.segments, or leave it out")
    _check_memory(segments, plan_video(limits, settings), settings.batch_size)
    return segments


def _check_memory(segments: Segments, plan: VideoPlan, videos: int) -> None:
    """Raise ConfigError for videos whose frames, in half precision and in 8 bits, would not fit into this machine."""
    frames = segments.frames(plan.frames)
    needed, there = videos * frames * plan.height * plan.width * 3 * (2 + 1), physical_memory()
    if needed > there:
        raise ConfigError(f"args.segments {segments.count} makes {videos} video(s) of {frames} frames of {plan.height} "
                          f"x {plan.width}, which take {needed / 1e9:.0f} GB, and this machine has {there / 1e9:.0f} "
                          "GB; give fewer segments, and continue from the video, or a smaller args.batch_size")


def start_of(latents: Tensor, settings: SamplingSettings) -> Continuing:
    """Return the start of a segment that continues latents (B, k, C, h, w), with its steps made as often as asked."""
    rounds = settings.continue_rounds
    return Continuing(latents) if rounds is None else Continuing(latents, rounds)


def kept_latents(encode, tails: Tensor, pad_latents: int) -> Tensor:
    """Return the latents (B, pad + kept, C, h, w) of kept frames (B, 3, kept_frames, H, W).

    Padding repeats the first one, as in training. `encode` is an engine's `encode_first_stage`.
    """
    latents = encode(tails, sample_posterior=False).transpose(1, 2).float()
    return torch.cat([latents[:, :1].repeat_interleave(pad_latents, 1), latents], dim=1)
