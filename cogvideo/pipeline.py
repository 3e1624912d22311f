"""The pipeline: a loaded model that makes videos from prompts, for Python and for `sample_video.py`."""
import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideo import inputs
from cogvideo.estimates import Estimates, check_estimates, pixels_of
from cogvideo.inputs import Clip, Given, Picture, plain
from cogvideo.parts import with_parts
from cogvideo.result import Result
from cogvideo.turns import Turns
from common.errors import ConfigError
from common.files import REPOSITORY
from common.typed import typed
from configuration.model import ModelConfig
from configuration.settings import DECODING, Arguments, SamplingSettings
from diffusion_video import DiffusionEngine
from inference.checks import check_prompts, source_of_prompts
from inference.continuing import check_segments
from inference.jobs import Job, in_batches, plan_jobs
from inference.lengths import way_of
from inference.overlap import Overlapped
from inference.pipeline import Conditions, Texts, Watch, encode_prompts, load_engine
from inference.segments import Sampled, sample_batch
from inference.sizes import ModelLimits, check_holdable, plan_video
from inference.starting_clips import check_start, warn_idle
from inference.text_embeddings import check_stored
from sgm.conditioning import Conditioning
from sgm.sampling import StepInfo

MOST_TEXTS = 64  # pairs of prompt and negative prompt whose text embeddings are kept


@dataclass(frozen=True, repr=False, eq=False)
class Pipeline:
    """A loaded model. `with_` returns one with another sampler, schedule or guider over the same weights.

    Calls from several threads wait for each other. `known` are text embeddings of earlier calls.
    """

    args: Arguments
    limits: ModelLimits
    engine: DiffusionEngine
    known: MutableMapping[Texts, Conditioning] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)

    @classmethod
    def load(cls, args: Arguments, limits: ModelLimits, device: torch.device | None = None) -> "Pipeline":
        """Return the pipeline of a checked run, with its weights on `device` (the run's if None), or offloaded."""
        return cls(args, limits, load_engine(args, device))

    def __repr__(self) -> str:
        height, width = self.limits.default_size
        path = Path(self.args.run.load or "")
        name = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
        return f"Pipeline({name}: {self.limits.default_frames} frames of {height} x {width})"

    def __copy__(self) -> "Pipeline":
        return replace(self)

    def __deepcopy__(self, memo: dict) -> "Pipeline":
        return replace(self, args=copy.deepcopy(self.args, memo), engine=copy.deepcopy(self.engine, memo),
                       known=dict(self.known), turns=Turns())

    def __reduce__(self):
        raise ConfigError("a pipeline holds a loaded model and is not pickled; call load in each process")

    def __call__(self, prompt: str | Sequence[str], **call: Any) -> Any:
        """Make a video of each prompt and seed; return their results in that order, or the result of a single one.

        `call` are the parameters of `results`. Raises ConfigError or DataError, with one line, before anything is
        sampled.
        """
        made = list(self.results(prompt, **call))
        samples = self.args.sampling.num_samples if call.get("num_samples") is None else call["num_samples"]
        several = isinstance(plain(call.get("seed")), list | tuple | range) or samples != 1
        return made if several or not isinstance(prompt, str) else made[0]

    def results(self, prompt: str | Sequence[str], *, negative_prompt: str | Sequence[str | None] | None = None,
                seed: int | Sequence | None = None, num_samples: int | None = None,
                image: Picture | Sequence[Picture] | None = None, last: Picture | Sequence[Picture] | None = None,
                clip: Clip | Sequence[Clip] | None = None, control: Clip | Sequence[Clip] | None = None,
                latents: Any = None, num_inference_steps: int | None = None, guidance_scale: float | None = None,
                callback: Callable[[StepInfo], Any] | None = None, estimates: bool | str = False,
                progress: bool = True, **settings: Any) -> Iterator[Result]:
        """Make videos, and yield the result of each when it is finished.

        A prompt's videos are those that the command line makes of it at the same place in a file. What is given for
        prompts is one for all, or a list with one for each. `settings` are keys of the command line: `num_frames`,
        `strength`, `invert`, `continue_from`, `segments`, `batch_size`, `sampling_image_size`, `sampling_fps`. See
        docs/python.md. Raises ConfigError or DataError.
        """
        texts = inputs.texts_of(prompt)
        seeds = inputs.seeds_of(seed, len(texts), isinstance(prompt, str))
        given = Given(negative_prompt, image, last, clip, control)
        pipe = self.with_(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        args = pipe._changed(settings if num_samples is None else {"num_samples": num_samples, **settings})
        with tempfile.TemporaryDirectory(prefix="cogvideo_") as folder, inputs.named_as_given(Path(folder)):
            prompts = given.prompts(texts, Path(folder), args.sampling.sampling_fps)
            jobs = pipe._jobs(prompts, seeds, latents, args)
            check_estimates(estimates, jobs, pipe.engine.sampler.num_steps)  # type: ignore[union-attr, arg-type]
            with self.turns:
                conditions = pipe.encode(jobs, args, progress)
            if args.sampling.overlap == DECODING:
                yield from pipe._overlapped(jobs, conditions, args, partial(Estimates, estimates, callback), progress)
                return
            for batch in in_batches(jobs, args.sampling.batch_size):
                yield from pipe.make(batch, conditions, args, Estimates(estimates, callback), progress)

    def encode(self, jobs: Iterable[Job], args: Arguments | None = None, show: bool = True) -> Conditions:
        """Return the conditioning of the prompts of these jobs; those of earlier calls are not encoded again."""
        negative = (args or self.args).sampling.negative_prompt
        conditions = encode_prompts(self.engine, jobs, negative, self.known, show)
        while len(self.known) > MOST_TEXTS:
            self.known.pop(next(iter(self.known)))
        return conditions

    @torch.no_grad()
    def sample(self, batch: Sequence[Job], conditions: Conditions, args: Arguments | None = None,
               watch: Watch | None = None, show: bool = True) -> Sampled:
        """Sample the latents of a batch of jobs. `watch` is called after every step; `show`: with a progress bar."""
        return sample_batch(self.engine, batch, conditions, args or self.args, watch, show)

    def make(self, batch: Sequence[Job], conditions: Conditions, args: Arguments | None = None,
             watch: Estimates | None = None, show: bool = True) -> list[Result]:
        """Return the results of a batch of jobs, without those that are sampled only beside the others."""
        watch = watch or Estimates(False, None)
        with self.turns:
            sampled = self.sample(batch, conditions, args, watch, show)
            return [self._result(job, sampled, row, watch) for row, job in enumerate(batch) if job.written]

    def with_(self, *, sampler: Any = None, schedule: Any = None, guider: Any = None,
              num_inference_steps: int | None = None, guidance_scale: float | None = None) -> "Pipeline":
        """Return a pipeline over the same weights with another sampler, schedule (discretization) or guider.

        Each is an object, or its `{target, params}`. What a new sampler was not given, it takes from this pipeline's:
        schedule, guider and steps. The two numbers then replace its steps and its guider's scale. Raises ConfigError
        for parts that do not fit.
        """
        network = self.args.model_config.network_config.params
        return replace(self, engine=with_parts(self.engine, network, sampler, schedule, guider, num_inference_steps,
                                               guidance_scale))

    def latent_shape(self, **settings: Any) -> tuple[int, int, int, int]:
        """Return the shape (T, C, h, w) of the noise that a video starts from; `settings` as in `results`."""
        return plan_video(self.limits, self._changed(settings).sampling).latent_shape

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Return the frames (frames, H, W, 3) uint8 of latents (T, C, h, w), or of a batch of them.

        Raises DataError for latents that this model does not have.
        """
        rows = inputs.decodable(latents, self.limits.channels)
        with self.turns:
            made = [pixels_of(self.engine.decode_latents(row[None].to(self.engine.device))) for row in rows]
        return made[0] if latents.ndim == 4 else np.stack(made)

    @torch.no_grad()
    def encode_clip(self, clip: np.ndarray) -> Tensor:
        """Return the latents (T, C, h, w) of a clip (frames, H, W, 3) uint8, with the padding that a start needs.

        Raises DataError for a clip that this model does not take.
        """
        frames = inputs.encodable(clip, self.limits)
        with self.turns:
            return self.engine.encode_clip(frames[None].to(self.engine.device))[0].cpu()

    def _changed(self, settings: Mapping[str, Any]) -> Arguments:
        """Return the run's settings with those of a call. Raises ConfigError for one that a call cannot have."""
        for key in settings:
            inputs.check_setting(key)
        given = {key: plain(value) for key, value in settings.items()}
        return self.args.changed(**typed(SamplingSettings, given, "call"))

    def _jobs(self, prompts: Sequence, seeds: Sequence[Sequence[int | None]], latents: Any, args: Arguments
              ) -> list[Job]:
        """Return a job for each sample and seed of each prompt. Raises ConfigError or DataError for what cannot be."""
        model, settings = args.model_config, args.sampling
        image_input, source = bool(model.get("noised_image_input")), source_of_prompts(settings, model)
        if source == "clip" and latents is not None:  # which take the clip's place
            source = "image" if image_input else None
        inputs.check_sources(prompts, source)
        check_prompts(model, prompts)
        frames = plan_video(self.limits, settings).latent_frames
        check_start(settings, ModelConfig.read(model), frames, self.engine.sampler)
        check_segments(settings, self.limits, {}, self.engine.sampler)
        negatives = [prompt.negative for prompt in prompts if prompt.negative is not None]
        if negatives or settings.invert:
            called = replace(settings, negative_prompt=negatives[0]) if negatives else settings
            warn_idle(called, ModelConfig.read(model), self.engine.sampler)
        planned = plan_jobs(prompts, self.limits, settings, image_input)
        loaded = self.args.sampling.num_frames or 0
        for job in planned:
            if job.plan.frames > max(loaded, self.limits.trained_frames):
                raise ConfigError(f"{job.plan.frames} frames are longer than this model was trained with; give "
                                  f"num_frames={job.plan.frames} to load")
            if job.plan.frames > self.limits.trained_frames and self._way(loaded) != self._way(job.plan.frames):
                raise ConfigError(f"{job.plan.frames} frames are made by {self._way(job.plan.frames)}, and this model "
                                  f"was loaded for {loaded}, by {self._way(loaded)}; give num_frames="
                                  f"{job.plan.frames} to load")
        jobs = [replace(job, seed=seed) for job in planned for seed in seeds[job.prompt.index]]
        check_holdable(jobs[0].plan, min(settings.batch_size, len(jobs)))
        given = inputs.latents_of(latents, len(jobs), jobs[0].plan.latent_shape)
        check_stored(jobs, args)
        return [replace(job, latents=own) for job, own in zip(jobs, given, strict=True)]

    def _way(self, frames: int) -> str | None:
        """Return the way in which a video longer than trained is made; None for one that is not longer."""
        if frames <= self.limits.trained_frames:
            return None
        return way_of(self.limits, self.args.sampling, frames)

    def _overlapped(self, jobs: Sequence[Job], conditions: Conditions, args: Arguments,
                    watching: Callable[[], Estimates], progress: bool) -> Iterator[Result]:
        """Yield the results of jobs; those of a batch are decoded in a thread while the next is sampled."""
        made: list[Result] = []

        def finish(job: Job, sampled: Sampled, row: int, watch: Estimates, frames: Iterator[Tensor]) -> None:
            made.append(self._result(job, sampled, row, watch, frames))

        with Overlapped(self.engine.device, decodes=True) as thread:
            for batch in in_batches(jobs, args.sampling.batch_size):
                watch = watching()
                with self.turns:
                    sampled = self.sample(batch, conditions, args, watch, progress)
                thread.wait()
                before, made[:] = list(made), []
                for row, job in enumerate(batch):
                    thread.run(partial(finish, job, sampled, row, watch), sampled.frames(self.engine, row))
                yield from before
            thread.wait()
        yield from made

    @torch.no_grad()
    def _result(self, job: Job, sampled: Sampled, row: int, estimates: Estimates,
                frames: Iterator[Tensor] | None = None) -> Result:
        chunks = sampled.frames(self.engine, row) if frames is None else frames
        video = pixels_of(chunk[None] for chunk in chunks)
        trace = sampled.trace.of_row(row) | estimates.of_row(self.engine, row, job.plan.pad_latents)
        noise = None if sampled.inverted is None else sampled.inverted[row].cpu()
        seed = self.args.run.seed if job.seed is None else job.seed
        return Result(job.prompt.text, seed, job.sample, job.plan.fps, video, sampled.latents[row].cpu(), trace, noise)
