"""The videos that the page asks for: checked as on the command line, and made in the studio's thread."""
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE, part_of
from cogvideo.studio.studio import Studio
from common.errors import ConfigError, DataError
from common.files import whole_files
from common.kinds import Seed, Size, Steps
from common.text import lines
from common.typed import checked
from configuration.settings import Arguments
from configuration.yaml_files import plain
from inference.checks import check_prompts, check_run, source_of_prompts
from inference.decoding import record_of, save, shown, write_last
from inference.jobs import Job, plan_jobs
from inference.made_from import run_made_from
from inference.output_folder import check_names
from inference.pipeline import Watch
from inference.prompts import Prompt, Source
from inference.sizes import ModelLimits
from inference.text_embeddings import check_stored, prepare_text_embeddings
from media.videos import VIDEO

EDIT, CONTINUE = "start from it and change it", "continue it"  # what becomes of a clip
MOST_PROMPTS = 100
EXACT = 2**53
# Of each source of a prompt, the files of which one is needed, and those that may be given beside it.
FILES: Mapping[Source | None, tuple[set[str], set[str]]] = {
    None: (set(), set()), "image": ({"image"}, {"last"}), "image or clip": ({"image", "clip"}, {"last"}),
    "clip": ({"clip"}, set()), "clip if any": (set(), {"clip"}),
    "control": ({"clip"}, set()), "control if any": (set(), {"clip"})}
SAID = {"image": "first picture", "last": "last picture", "clip": "clip"}
LONGEST_PROMPT = 5000  # characters


@dataclass(frozen=True)
class Asked:
    """What a user filled in, unchecked; files are paths that Gradio gave to uploads."""

    model: object
    prompts: object
    negative: object = ""
    image: object = None
    last: object = None
    clip: object = None
    use: object = EDIT
    strength: object = 0.6
    kept: object = 2
    frames: object = None
    height: object = None
    width: object = None
    seed: object = 0
    samples: object = 1
    steps: object = 50
    parts: Mapping[str, tuple[object, Mapping[str, Any]]] = field(default_factory=dict)  # role -> class and values
    loras: object = ()
    strengths: object = ""


@dataclass(frozen=True)
class Ready:
    """The settings and the videos of a run whose checks are done, and the limits of its model."""

    args: Arguments
    jobs: Sequence[Job]
    limits: ModelLimits


def ready(studio: Studio, asked: Asked, output: Path | None = None) -> Ready:
    """Check what a user filled in, and plan its videos, below `output` or a new folder. Raises a UserError."""
    folder = studio.new_folder() if output is None else output
    try:
        return _planned(studio, asked, folder)
    except BaseException:
        if output is None:
            with suppress(OSError):  # which would hide what was wrong
                folder.rmdir()
        raise


def _planned(studio: Studio, asked: Asked, folder: Path) -> Ready:
    args = settings(studio, asked, folder)
    prompts = _prompts(studio, asked, source_of_prompts(args.sampling, args.model_config))
    prepare_text_embeddings(args)
    limits = check_run(args)
    check_prompts(args.model_config, prompts)
    jobs = plan_jobs(prompts, limits, args.sampling, args.model_config.get("noised_image_input", False),
                     run_made_from(args))
    folder.mkdir(parents=True, exist_ok=True)
    check_names(jobs, args.sampling.output_dir)
    check_stored(jobs, args)
    return Ready(args, jobs, limits)


def settings(studio: Studio, asked: Asked, output: Path) -> Arguments:
    """Return the settings of the run, whose videos go below `output`. Raises ConfigError."""
    model = studio.model(asked.model)
    seed = checked(Seed, asked.seed, "seed")
    if seed > EXACT:
        raise ConfigError(f"seed is {seed}, and a browser keeps whole numbers up to {EXACT} alone exactly; choose a "
                          "lower one, or use sample_video.py")
    words = [f"--seed={seed}", f"--num-samples={checked(Steps, asked.samples, 'videos')}"]
    if asked.frames is not None:
        words.append(f"--num-frames={checked(Size, asked.frames, 'frames')}")
    if bool(asked.height) != bool(asked.width):
        raise ConfigError("height and width go together; give both, or neither")
    if asked.height and asked.width:
        sides = [checked(Size, side, name) for side, name in ((asked.height, "height"), (asked.width, "width"))]
        words += ["--sampling-image-size", *map(str, sides)]
    if asked.clip is not None and not follows_clips(model.source()):
        words += _clip_words(asked)
    if asked.negative:
        words.append(f"--negative-prompt={_line(asked.negative, 'negative prompt')}")
    if asked.parts:
        own = plain(model.arguments().model_config.sampler_config)
        sampler = yaml.safe_dump(sampler_config(asked.parts, asked.steps, own), default_flow_style=True, width=math.inf)
        words.append(f"model.sampler_config={sampler.strip()}")
    return model.arguments(*words, *_lora_words(studio, asked), f"--output-dir={output}")


def sampler_config(parts: Mapping[str, tuple[object, Mapping[str, Any]]], steps: object,
                   own: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return the configuration of a sampler from its class, schedule and guider; `own` is the model's.

    Raises ConfigError.
    """
    count, known = checked(Steps, steps, "steps"), own.get("params") or {}
    before = {SAMPLER: own} | {role: known.get(key) or {} for role, key in (
        (SCHEDULE, "discretization_config"), (GUIDER, "guider_config"))}
    sampler, schedule, guider = (part_of(role, *parts[role], before[role]) for role in (SAMPLER, SCHEDULE, GUIDER))
    if "num_steps" in guider["params"]:
        guider["params"]["num_steps"] = count
    sampler["params"] |= {"num_steps": count, "discretization_config": schedule, "guider_config": guider}
    return sampler


def _clip_words(asked: Asked) -> list[str]:
    if asked.use == CONTINUE:
        return [f"--continue-from={checked(Steps, asked.kept, 'latent frames that are kept')}"]
    return [f"--strength={checked(float, asked.strength, 'strength')}"]


def _lora_words(studio: Studio, asked: Asked) -> list[str]:
    """Return the words that choose LoRAs of the studio's folder. Raises DataError for any other."""
    chosen = list(asked.loras) if isinstance(asked.loras, list | tuple) else []
    if not chosen:
        return []
    known = studio.known_loras()
    for name in chosen:
        if not isinstance(name, str) or name not in known:
            raise DataError(f"LoRA {str(name)[:80]!r} is not in {studio.loras}")
    strengths = [part.strip() for part in str(asked.strengths or "").split(",") if part.strip()]
    if strengths and len(strengths) != len(chosen):
        raise ConfigError(f"{len(strengths)} strengths for {len(chosen)} LoRA(s); give one for each, or none")
    try:
        numbers = [str(float(one)) for one in strengths]
    except ValueError as error:
        raise ConfigError(f"strengths are {asked.strengths!r}; they are numbers, such as 1, 0.5") from error
    return ["--load-lora", *(str(known[name]) for name in chosen), *(["--lora-scale", *numbers] if numbers else [])]


def _prompts(studio: Studio, asked: Asked, source: Source | None) -> list[Prompt]:
    """Return the prompts, one a line, with the files that a user gave. `source` is what each needs. Raises DataError.

    Blank lines and those starting with `#` are skipped.
    What a prompt says is text alone: the mark with which a prompt file names a picture means nothing here.
    """
    texts = [_line(part, "prompt") for part in lines(str(asked.prompts or ""))]
    texts = [text for text in texts if text and not text.startswith("#")]
    if not texts:
        raise DataError("the prompt is empty; write what the video shows")
    if len(texts) > MOST_PROMPTS:
        raise DataError(f"{len(texts)} prompts; at most {MOST_PROMPTS} can be made at once")
    image, last, clip = (studio.upload(given) for given in (asked.image, asked.last, asked.clip))
    _check_files(source, image, last, clip)
    if follows_clips(source):
        return [Prompt(i, text, control=clip) for i, text in enumerate(texts)]
    return [Prompt(i, text, image=image, last=last, clip=clip) for i, text in enumerate(texts)]


def follows_clips(source: Source | None) -> bool:
    """Return True if the clip of a prompt is one that its video follows."""
    return source in ("control", "control if any")


def _check_files(source: Source | None, image: str | None, last: str | None, clip: str | None) -> None:
    """Raise DataError for a file that the model needs and lacks, or that it takes no notice of."""
    given = {name for name, path in (("image", image), ("last", last), ("clip", clip)) if path is not None}
    needed, taken = FILES[source]
    if needed and not needed & given:
        raise DataError(f"this model needs a {' or a '.join(SAID[name] for name in sorted(needed))}; choose one")
    if extra := given - needed - taken:
        raise DataError(f"this model takes no {SAID[min(extra)]}; take it away")


def _line(text: object, what: str) -> str:
    """Return a text as one line. Raises DataError for one that is too long."""
    line = " ".join(str(text).split())
    if len(line) > LONGEST_PROMPT:
        raise DataError(f"the {what} has {len(line)} characters; at most {LONGEST_PROMPT} are taken")
    return line


def make(studio: Studio, given: Ready, watch: Watch, made: Callable[[Path], None]) -> None:
    """Make the videos as `sample_video.py` does, one after the other, and tell each one's path to `made`.

    Call it in the studio's thread.
    """
    pipe = studio.pipeline(given.args, given.limits)
    begun = time.perf_counter()
    conditions = pipe.encode(given.jobs)
    for job in given.jobs:
        sampled = pipe.sample([job], conditions, watch=watch)
        with whole_files() as files:
            written = save(shown(sampled.frames(pipe.engine, 0)), job, sampled, 0, False, files)
            record = record_of([job], 0, pipe.args, pipe.engine.device, sampled.trace.of_row(0))
            seconds = {"all": round(time.perf_counter() - begun, 3)}
            write_last(job, record | {"seconds": seconds}, written, files)
        made(job.folder / VIDEO)
