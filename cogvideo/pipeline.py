"""The pipeline: a loaded model that makes videos from prompts, as `sample_video.py` does."""
import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arguments import get_args
from cogvideo.result import Result
from common.errors import ConfigError, DataError
from common.files import REPOSITORY
from common.kinds import Seed, Steps
from common.typed import checked, typed
from configuration.settings import Arguments, SamplingSettings
from configuration.targets import instantiate_from_config
from configuration.yaml_files import existing_path
from diffusion_video import DiffusionEngine
from inference.checks import check_prompts, check_run
from inference.jobs import Job, plan_jobs
from inference.pipeline import encode_prompts, load_engine, sample_latents
from inference.prompts import Prompt
from inference.sizes import ModelLimits
from inference.text_embeddings import check_stored, prepare_text_embeddings
from media.videos import to_pixels
from sgm.sampling import StepInfo, check_compatible

SHARED = REPOSITORY / "configs" / "inference.yaml"
Picture = str | Path | Image.Image | np.ndarray


def load(config: str | Path, *overrides: str, **settings: Any) -> "Pipeline":
    """Load the model of a configuration file, such as `configs/tiny_t2v.yaml`, and return its pipeline.

    `overrides` are words of the command line: `key=value` for any key of the configuration, or further files.
    `settings` are keys of section `args`, such as `device="cpu"`, `load=...` or `num_frames=33`. Raises ConfigError,
    CheckpointError or DataError, with one line on what is wrong, before weights are read.
    """
    files = [existing_path(str(file), Path.cwd(), REPOSITORY)
             for file in (config, *(word for word in overrides if "=" not in word))]
    words = [word for word in overrides if "=" in word] + [_word(key, value) for key, value in settings.items()]
    args = get_args(["--base", *files, str(SHARED), *words])
    prepare_text_embeddings(args)
    limits = check_run(args)
    return Pipeline(args, limits, load_engine(args))


def _word(key: str, value: Any) -> str:
    """Return a setting as a word of the command line."""
    if isinstance(value, list | tuple):
        return f"args.{key}=[{', '.join(map(str, value))}]"
    return f"args.{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


@dataclass(frozen=True, repr=False)
class Pipeline:
    """A loaded model. `with_` returns one with another sampler, schedule or guider over the same weights."""

    args: Arguments
    limits: ModelLimits
    engine: DiffusionEngine

    def __repr__(self) -> str:
        height, width = self.limits.default_size
        return f"Pipeline({self.args.run.load}: {self.limits.default_frames} frames of {height} x {width})"

    def __call__(self, prompt: str | Sequence[str], *, seed: int | Sequence[int] | None = None, num_samples: int = 1,
                 image: Picture | Sequence[Picture] | None = None, last: Picture | Sequence[Picture] | None = None,
                 control: Picture | Sequence[Picture] | None = None, negative_prompt: str | None = None,
                 num_frames: int | None = None, callback: Callable[[StepInfo], None] | None = None) -> Any:
        """Make a video of each prompt, sample and seed; return their results in that order, or the one for one prompt.

        A prompt's videos are those that the command line makes of it at the same place in a file. `seed` None is that
        of the configuration. `image`, and `last` for the picture that a video ends with, are one picture or one for
        each prompt: a path, a PIL image, or an array (H, W, 3) uint8. `control` is the path of the clip that a video
        follows, or one for each prompt. `callback` is called after every step of every video. Raises ConfigError or
        DataError.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        with tempfile.TemporaryDirectory() as folder:
            given = [replace(one, control=None if clip is None else str(clip))
                     for one, clip in zip(_prompts(prompts, image, last, Path(folder)),
                                          _each(control, len(prompts), "control"), strict=True)]
            jobs = self._jobs(given, num_samples, num_frames)
        with torch.no_grad():
            conditions = encode_prompts(self.engine, jobs, negative_prompt)
            made = [self._result(job, each, conditions, callback) for job in jobs for each in self._seeds(seed)]
        single = isinstance(prompt, str) and num_samples == 1 and (seed is None or isinstance(seed, int))
        return made[0] if single else made

    def with_(self, *, sampler: Any = None, schedule: Any = None, guider: Any = None,
              num_inference_steps: int | None = None, guidance_scale: float | None = None) -> "Pipeline":
        """Return a pipeline over the same weights with another sampler, schedule (discretization) or guider.

        Each is an object, or its `{target, params}`. A new sampler keeps the schedule and guider that it was built
        with; the numbers then replace its steps and its guider's scale. Raises ConfigError for parts that do not fit.
        """
        chosen: Any = copy.copy(self.engine.sampler if sampler is None else _built(sampler))
        chosen.discretization = chosen.discretization if schedule is None else _built(schedule)
        chosen.guider = chosen.guider if guider is None else _built(guider)
        if num_inference_steps is not None:
            chosen.num_steps = checked(Steps, num_inference_steps, "num_inference_steps")
        if guidance_scale is not None:
            chosen.guider = _scaled(chosen.guider, guidance_scale)
        chosen.schedule()  # refuses a number of steps that the schedule cannot have
        check_compatible(chosen, self.engine.denoiser)
        self._check_guider(chosen.guider)
        engine = copy.copy(self.engine)
        engine.sampler = chosen
        return replace(self, engine=engine)

    def _check_guider(self, guider: Any) -> None:
        """Raise ConfigError for a guider whose branches the loaded networks cannot evaluate."""
        guider.check_network(self.args.model_config.network_config.params)
        loaded = None if self.engine.sampler is None else self.engine.sampler.guider.weak
        if guider.weak is not None and guider.weak != loaded:
            raise ConfigError(f"{type(guider).__name__} needs a weaker network, which is read when a model is loaded; "
                              "name the guider in the configuration")

    def _seeds(self, seed: int | Sequence[int] | None) -> Sequence[int]:
        if seed is None:
            return [self.args.run.seed]
        return [checked(Seed, each, "seed") for each in (seed if isinstance(seed, list | tuple | range) else [seed])]

    def _jobs(self, prompts: Sequence[Prompt], num_samples: int, num_frames: int | None) -> list[Job]:
        """Return a job for each sample of each prompt. Raises ConfigError for a length that needs other positions."""
        given = {"num_samples": num_samples} | ({} if num_frames is None else {"num_frames": num_frames})
        sampling = replace(self.args.sampling, **typed(SamplingSettings, given, "call"))
        needs_image, follows = (bool(self.args.model_config.get(key)) for key in ("noised_image_input",
                                                                                  "control_input"))
        for prompt in prompts:
            if needs_image != (prompt.image is not None):
                raise DataError(f"prompt {prompt.index}: this model {'needs an' if needs_image else 'takes no'} image")
            if follows != (prompt.control is not None):
                raise DataError(f"prompt {prompt.index}: this model {'needs a' if follows else 'takes no'} control "
                                "clip")
            if prompt.control is not None and not Path(prompt.control).is_file():
                raise DataError(f"prompt {prompt.index}: control clip {prompt.control} does not exist")
        check_prompts(self.args.model_config, prompts)
        jobs = plan_jobs(prompts, self.limits, sampling, needs_image)
        loaded = self.args.sampling.num_frames or 0
        if any(job.plan.frames > max(loaded, self.limits.trained_frames) for job in jobs):
            raise ConfigError(f"{jobs[0].plan.frames} frames are longer than this model was trained with; give "
                              f"num_frames={jobs[0].plan.frames} to load")
        check_stored(jobs, self.args)
        return jobs

    def _result(self, job: Job, seed: int, conditions: Mapping, callback: Callable[[StepInfo], None] | None) -> Result:
        latents, trace = sample_latents(self.engine, [job], conditions, self.args.changed(seed=seed), callback)
        chunks = self.engine.decode_chunks(latents.transpose(1, 2))
        video = np.concatenate([to_pixels(chunk[0]) for chunk in chunks])
        return Result(job.prompt.text, seed, job.sample, job.plan.fps, video, latents[0].cpu(), trace.of_row(0))


def _built(part: Any) -> Any:
    return instantiate_from_config(part) if isinstance(part, Mapping) else part


def _scaled(guider: Any, scale: float) -> Any:
    """Return a guider with another scale. Raises ConfigError for a guider without one, or a scale it does not take."""
    if not is_dataclass(guider) or isinstance(guider, type) or "scale" not in {each.name for each in fields(guider)}:
        raise ConfigError(f"guidance_scale: {type(guider).__name__} has no scale; give another guider")
    return replace(guider, scale=scale)


def _prompts(texts: Sequence[str], image: Picture | Sequence[Picture] | None, last: Picture | Sequence[Picture] | None,
             folder: Path) -> list[Prompt]:
    """Return prompts whose pictures are files; those in memory are written into `folder`."""
    pictures = [_each(given, len(texts), name) for name, given in (("image", image), ("last", last))]
    paths = [[_file(picture, folder / f"{name}{i}.png") for i, picture in enumerate(column)]
             for name, column in zip(("image", "last"), pictures, strict=True)]
    return [Prompt(i, text, image=first, last=final)
            for i, (text, first, final) in enumerate(zip(texts, *paths, strict=True))]


def _each(given: Picture | Sequence[Picture] | None, count: int, name: str) -> list[Picture | None]:
    """Return one picture for each of `count` prompts. Raises DataError if several are given, but not as many."""
    if not isinstance(given, list | tuple):
        return [given] * count  # type: ignore[list-item]
    if len(given) != count:
        raise DataError(f"{name}: {len(given)} pictures for {count} prompt(s); give one, or one for each")
    return list(given)


def _file(picture: Picture | None, path: Path) -> str | None:
    """Return the path of a picture, after writing one in memory to `path`."""
    if picture is None or isinstance(picture, str | Path):
        return None if picture is None else str(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(f"a picture as an array is (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
        picture = Image.fromarray(picture)
    picture.save(path)
    return str(path)
