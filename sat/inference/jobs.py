"""Jobs: the videos that a run will make, each with its prompt, sample, size and output folder."""
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.listing import Remarks
from common.seeds import generator_for
from configuration.settings import SamplingSettings
from inference.continuing import Segments, clip_named, segments_of
from inference.prompts import Prompt
from inference.sizes import ModelLimits, VideoPlan, check_holdable, plan_video, warn_sizes
from media.clip_facts import digest_of
from media.clips import ClipFormat, read_clip
from media.images import fit_image_cover, fit_image_short_side, remark_fit
from media.pictures import load_image

logger = logging.getLogger(__name__)

MOST_VIDEOS = 100_000  # of one run
Picture = Callable[[], Tensor]


@dataclass(frozen=True)
class Job:
    """One video. `image` and `last` read its first and its last picture; None if it has none.

    A picture is (3, H, W) in [-1, 1], already of the video's size. It is read when it is needed, so that a long list of
    videos takes no memory for pictures. `contents` are digests of the prompt's files, `run` is what all videos of the
    run are made from (`inference.made_from`). `plan` is that of one segment, if the video is made in `segments`. Jobs
    of different `group`s are sampled in different batches; one that is not `written` is only sampled beside the others
    of its batch. `seed` None is that of the run. `latents` (T, C, h, w) are what a run starts from in place of a
    clip's, or else of drawn noise.
    """

    prompt: Prompt
    sample: int
    plan: VideoPlan
    folder: Path
    image: Picture | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    last: Picture | None = None
    segments: Segments | None = None
    group: int = 0
    written: bool = True
    seed: int | None = None
    latents: Tensor | None = None

    @property
    def frames(self) -> int:
        """The frames of the whole video."""
        return self.plan.frames if self.segments is None else self.segments.frames(self.plan.frames)

    def generator(self, seed: int, purpose: str = "noise") -> torch.Generator:
        """Return a generator that depends only on the purpose, the indices of prompt and sample, and a seed.

        `seed` is that of the run; the job's own takes precedence.
        """
        return generator_for(seed if self.seed is None else self.seed, self.prompt.index, self.sample, purpose)

    def check_unchanged(self) -> None:
        """Raise DataError if a file of the prompt is no longer the one that the job was planned with."""
        for name, path in _files_of(self.prompt).items():
            if name in self.contents and (not Path(path).is_file() or digest_of(path) != self.contents[name]):
                raise DataError(f"{path} was changed or removed while the run was under way; put it back and start the "
                                "run again")

    def clip(self) -> Tensor:
        """Return the prompt's clip, (3, T, H, W) in [-1, 1], at its size and rate; all of it before segments."""
        assert self.prompt.clip is not None
        if self.segments is None:
            return self._read(self.prompt.clip)
        with clip_named(self.prompt.clip):
            return self.segments.clip(self.prompt.clip, self.plan)

    def control(self) -> Tensor:
        """Return the clip that the video follows, (3, T, H, W) in [-1, 1], at the video's size and rate."""
        assert self.prompt.control is not None
        return self._read(self.prompt.control)

    def _read(self, path: str) -> Tensor:
        with clip_named(path):
            return read_clip(path, clip_format(self.plan))[0].transpose(0, 1)


def plan_jobs(prompts: Sequence[Prompt], limits: ModelLimits, settings: SamplingSettings, image_input: bool = False,
              run: Mapping[str, Any] = MappingProxyType({})) -> list[Job]:
    """Return a job for every sample of every prompt, in order; `run` is what all of them are made from.

    Reads and fits the images, and checks the clips. Raises ConfigError or DataError for invalid sizes, images and
    clips, and for more videos than a run can have.
    """
    if len(prompts) * settings.num_samples > MOST_VIDEOS:
        raise ConfigError(f"{len(prompts)} prompt(s) with {settings.num_samples} samples each are more than the "
                          f"{MOST_VIDEOS} videos that a run can make; lower args.num_samples, or divide the prompts")
    jobs, remarks, segments = [], Remarks("picture"), segments_of(settings, limits)
    for prompt in prompts:
        if segments is None or prompt.clip is None:
            own, (image, plan) = segments, _fitted(prompt, limits, settings, image_input, remarks)
        else:
            image, plan = None, plan_video(limits, settings)
            own = segments.after(prompt.clip, plan)
        last = None if prompt.last is None else _fitted_last(prompt.last, plan, remarks)
        contents = {name: digest_of(path) for name, path in _files_of(prompt).items()}
        for sample in range(settings.num_samples):
            folder = Path(settings.output_dir) / prompt.folder / str(sample)
            jobs.append(Job(prompt, sample, plan, folder, image, contents, run, last, own))
    for job in jobs:
        check_holdable(job.plan, min(settings.batch_size, len(jobs)))
    remarks.warn(logger)
    warn_sizes(limits, [job.plan for job in jobs])
    return jobs


def in_batches(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """Yield batches of consecutive jobs with the same latent shape, kind of start and group, at most `size` each."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or _start_of(job) != _start_of(batch[0])):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _start_of(job: Job) -> tuple:
    return job.plan.latent_shape, job.prompt.clip is None, job.group


def clip_format(plan: VideoPlan, frames: int | None = None) -> ClipFormat:
    """Return the format of a clip for a video, or for its first `frames`."""
    return ClipFormat((plan.height, plan.width), plan.fps, plan.frames if frames is None else frames)


def _fitted(prompt: Prompt, limits: ModelLimits, settings: SamplingSettings, image_input: bool, remarks: Remarks
            ) -> tuple[Picture | None, VideoPlan]:
    """Return the picture that the video starts from, if any, and its plan.

    An image-to-video model that starts from a clip is given the clip's first frame.
    """
    given = prompt.clip or prompt.control
    if given is not None:
        _check_clip(given, plan_video(limits, settings), limits)
    if prompt.clip is not None:
        plan = plan_video(limits, settings)
        return partial(_first_frame, prompt.clip, clip_format(plan, 1)) if image_input else None, plan
    if prompt.image is None:
        return None, plan_video(limits, settings)
    picture = load_image(prompt.image, remarks)
    if limits.size_from_image:
        short, long = sorted(settings.sampling_image_size or limits.default_size)
        fit: Callable[[Tensor], Tensor] = partial(fit_image_short_side, short=short, multiple=limits.side_multiple,
                                                  max_long=long)
        plan = plan_video(limits, settings, size=tuple(fit(picture).shape[-2:]))
    else:
        plan = plan_video(limits, settings)
        fit = partial(fit_image_cover, size=(plan.height, plan.width))
    remark_fit(picture.shape[-2:], (plan.height, plan.width), prompt.image, remarks)
    return partial(_read_picture, prompt.image, fit), plan


def _fitted_last(path: str, plan: VideoPlan, remarks: Remarks) -> Picture:
    """Return the picture that a video ends with, cropped to the size of the video."""
    if plan.latent_frames - plan.pad_latents < 2:
        raise ConfigError(f"a video of {plan.frames} frame cannot end with another picture; leave the last one out")
    size = (plan.height, plan.width)
    remark_fit(load_image(path, remarks).shape[-2:], size, path, remarks)
    return partial(_read_picture, path, partial(fit_image_cover, size=size))


def _read_picture(path: str, fit: Callable[[Tensor], Tensor]) -> Tensor:
    return fit(load_image(path, Remarks("picture")))  # what there is to remark was logged with the plan


def _first_frame(path: str, form: ClipFormat) -> Tensor:
    with clip_named(path):
        return read_clip(path, form)[0][0]


def _files_of(prompt: Prompt) -> dict[str, str]:
    """Return the files that a prompt names, by what they are."""
    files = {"image": prompt.image, "clip": prompt.clip, "last": prompt.last, "control": prompt.control}
    return {name: path for name, path in files.items() if path}


def _check_clip(path: str, plan: VideoPlan, limits: ModelLimits) -> None:
    with clip_named(path):
        frames = read_clip(path, clip_format(plan))[1]  # decoded here, so that damage is found before weights are read
    if frames < plan.frames:
        possible = max(count for count in limits.frame_counts if count <= frames)
        raise DataError(f"clip {path} is too short: {frames} frames at {plan.fps} a second, where the video has "
                        f"{plan.frames}; give a longer clip, or --num-frames {possible}")
