"""The work of tools/make_small_model.py: the recipes of configs/small_model as jobs, each with a result of its own."""
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from common.errors import ConfigError
from common.files import REPOSITORY
from common.kinds import Count
from common.suggestions import nearest
from common.typed import check_names, missing, typed
from configuration.yaml_files import plain, read_mapping

RECIPES = REPOSITORY / "configs" / "small_model"
OUT = "{out}"  # stands for the folder to write in the command of a job whose result appears as a whole
FEW_CLIPS, FEW_STEPS, SMALL_BATCH = 8, 2, 2  # of a quick run
JUDGED = {  # 864 videos of text-to-video, from noise that nobody looked at when the recipes were written
    "vae": (), "t2v": ("--first-seed", "4", "--seeds", "8"), "i2v": ("--first-seed", "4", "--seeds", "2")}
JUDGED_QUICKLY = {"vae": (), "t2v": ("--every", "50"), "i2v": ("--every", "50")}
AUTOENCODERS = {"vae": "3d-vae.pt", "preview": "preview.pt"}  # the parts that train_vae.py trains, and their files
NUMBERS = "numbers"
ALSO = ("preview", "first_last", "control", NUMBERS)  # the parts that are made only if they are asked for
# The model whose configuration a part has, where it is not its own.
CONFIG_OF = {"first_last": ("i2v",), NUMBERS: ("t2v", NUMBERS)}
# The clips of a part's validation, by default "heldout".
HELD_OUT = {NUMBERS: ("numbers_heldout", "relations_heldout")}


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe: its clips, by their names in data.yaml, and what it changes in the base."""

    name: str
    clips: Sequence[str]
    config: Mapping
    start: str | None = None  # the stage whose weights it starts from; by default the one before


@dataclass(frozen=True)
class Choices:
    """What the command line chooses."""

    folder: Path
    quick: bool = False
    processes: Count = 1
    precision: str = "float32"
    also: tuple[str, ...] = ()

    @property
    def autoencoders(self) -> tuple[str, ...]:
        """The parts that train_vae.py trains."""
        return tuple(part for part in AUTOENCODERS if part == "vae" or part in self.also)

    @property
    def transformers(self) -> tuple[str, ...]:
        """The transformers that are trained."""
        return "t2v", "i2v", *(part for part in ALSO if part in self.also and part not in AUTOENCODERS)


@dataclass(frozen=True)
class Job:
    """A command that makes one result. Training is done when its folder has `steps`, all else when `result` exists."""

    name: str
    result: Path
    command: tuple[str, ...]  # after the name of the Python interpreter
    steps: Count = 0
    config: Mapping = field(default_factory=dict)
    extra: tuple[str, ...] = ()  # words that may change when the job is continued
    base: tuple[str, ...] = ()  # configurations of the repository that the result depends on
    autoencoder: str | None = None  # of the last stage of an autoencoder, its file in FOLDER/tiny/vae


def read_recipe(part: str) -> tuple[list[str], list[Stage]]:
    """Return the base configurations and the stages of a part. Raises ConfigError for what a recipe cannot hold."""
    path = RECIPES / f"{part}.yaml"
    content = plain(read_mapping(path))
    if set(content) != {"base", "stages"}:
        raise ConfigError(f"{path} must have the keys base and stages, and no other")
    stages = []
    for number, given in enumerate(content["stages"]):
        where = f"{path.name}: stages[{number}]"
        check_names(Stage, given, where)
        for name in missing(Stage, given):
            raise ConfigError(f"{where}.{name} is missing; add it")
        stages.append(Stage(**typed(Stage, given, where)))
    return content["base"], stages


def jobs_of(choices: Choices) -> list[Job]:
    """Return all jobs in the order in which they are done."""
    clips = plain(read_mapping(RECIPES / "data.yaml"))["clips"]
    trained = {part: list(_trainings(part, choices, clips)) for part in (*choices.autoencoders, *choices.transformers)}
    for part in choices.autoencoders:
        trained[part][-1] = replace(trained[part][-1], autoencoder=AUTOENCODERS[part])
    made = choices.folder / "tiny"
    text = [Job("t5", made / "t5", ("tools/make_tiny_t5.py", "--out", OUT))]
    if NUMBERS in choices.also:
        words = ("tools/make_numbers_t5.py", "--start", str(made / "t5"), "--out", OUT)
        text.append(Job("t5_numbers", made / "t5_numbers", words))
    return [*(_rendering(name, clip, choices) for name, clip in clips.items()), *text,
            *(job for part in trained for job in trained[part]),
            *(Job(f"export_{part}", made / part, ("tools/export_weights.py", str(trained[part][-1].result), OUT))
              for part in choices.transformers), *(_judging(part, choices) for part in JUDGED),
            *([_judging_numbers(choices)] if NUMBERS in choices.also else [])]


def _rendering(name: str, clips: Mapping, choices: Choices) -> Job:
    words = ["tools/make_shapes.py", "--out", OUT]
    for key, value in clips.items():
        if key == "clips" and choices.quick:
            value = min(value, FEW_CLIPS)
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return Job(f"clips_{name}", choices.folder / "data" / name, tuple(words))


def _trainings(part: str, choices: Choices, known: Mapping) -> Iterator[Job]:
    base, stages = read_recipe(part)
    before = None
    for stage in stages:
        for name in stage.clips:
            if name not in known:
                raise ConfigError(f"{part}.yaml: stage {stage.name} names clips {name!r}, which data.yaml lacks"
                                  f"{nearest(name, known)}")
        config, batch = _stage_config(part, base, stage, stage.start or before, choices)
        yield _training_job(part, base, stage.name, config, batch, choices)
        before = stage.name


def _stage_config(part: str, base: Sequence[str], stage: Stage, start: str | None, choices: Choices
                  ) -> tuple[dict, int]:
    """Return what a stage adds to the base, with its folders, and the clips of a step on all processes together."""
    folder = choices.folder
    weights = None if start is None else folder / "runs" / start / ("3d-vae.pt" if part in AUTOENCODERS else "")
    args: dict[str, Any] = {"experiment_name": stage.name, "load": weights and str(weights),
                            "save": str(folder / "runs" / stage.name),
                            "train_data": [str(folder / "data" / name) for name in stage.clips],
                            "valid_data": [str(folder / "data" / name) for name in HELD_OUT.get(part, ("heldout",))]}
    whole = OmegaConf.merge(*(read_mapping(REPOSITORY / name) for name in base), stage.config, {"args": args})
    added: Any = OmegaConf.merge(stage.config, {"args": args})
    if choices.quick:
        added = OmegaConf.merge(added, _few_steps(part, plain(whole)))
    precision = {"deepspeed": {"bf16": {"enabled": choices.precision == "bfloat16"}}}
    if part in AUTOENCODERS:
        return plain(OmegaConf.merge(added, precision)), 1
    frames = whole.data.params.max_num_frames
    cache = folder / ("latents_images" if frames == 1 else f"latents_{part}" if part == NUMBERS else "latents")
    added = OmegaConf.merge(added, precision, {"args": {"latent_cache": str(cache)}},
                            {"model": parts_config(whole.model, folder)})
    batch = SMALL_BATCH if choices.quick else int(whole.deepspeed.train_micro_batch_size_per_gpu)
    if batch % choices.processes:
        raise ConfigError(f"--processes {choices.processes} does not divide the {batch} clips of a step of "
                          f"{stage.name}")
    return plain(added), batch


def parts_config(model: Any, folder: Path) -> dict:
    """Return the part of section `model` that names the autoencoder and the text encoder made in a folder."""
    embedders = plain(model.conditioner_config.params)["emb_models"]
    weights = Path(model.first_stage_config.params.ckpt_path)
    embedders[0]["params"]["model_dir"] = str(folder / "tiny" / Path(embedders[0]["params"]["model_dir"]).name)
    return {"conditioner_config": {"params": {"emb_models": embedders}},
            "first_stage_config": {"params": {"ckpt_path": str(folder / "tiny" / weights.parent.name / weights.name)}}}


def _few_steps(part: str, whole: Mapping) -> dict:
    if part not in AUTOENCODERS:
        return {"args": {"train_iters": FEW_STEPS, "warmup_iters": 1, "sample_interval": None, "log_interval": 1,
                         "eval_interval": FEW_STEPS, "eval_iters": 1, "eval_batch_size": SMALL_BATCH}}
    stages = [{**stage, "iters": 1, "batch_size": SMALL_BATCH} for stage in whole["data"]["stages"]]
    return {"args": {"eval_interval": None, "log_interval": 1}, "data": {"stages": stages}}


def _training_job(part: str, base: Sequence[str], name: str, config: Mapping, batch: int, choices: Choices) -> Job:
    folder = choices.folder
    files = ("--base", *base, str(folder / "recipe" / f"{name}.yaml"), "--resume")
    result = folder / "runs" / name
    if part in AUTOENCODERS:
        whole = OmegaConf.merge(*(read_mapping(REPOSITORY / path) for path in base), config)
        steps = sum(stage.iters for stage in whole.data.stages)
        return Job(name, result, ("train_vae.py", *files), steps, config, base=tuple(base))
    launch: tuple[str, ...] = ()
    if choices.processes > 1:
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(choices.processes))
    share = f"deepspeed.train_micro_batch_size_per_gpu={batch // choices.processes}"
    return Job(name, result, (*launch, "train_video.py", *files), config["args"]["train_iters"], config, (share,),
               base=tuple(base))


def _judging(part: str, choices: Choices) -> Job:
    folder = choices.folder
    model = "i2v" if part == "i2v" else "t2v"
    words = [*(JUDGED_QUICKLY if choices.quick else JUDGED)[part], "--out", str(folder / "judged"),
             str(folder / f"{model}.yaml")]
    if choices.quick:
        words.append("model.sampler_config.params.num_steps=2")
    return Job(f"judge_{part}", folder / "judged" / f"{part}.md", ("-m", "benchmarks.small_model", part, *words),
               base=own_configs(model))


def _judging_numbers(choices: Choices) -> Job:
    folder, out = choices.folder, choices.folder / "judged"
    words = ["--out", str(out), str(folder / f"{NUMBERS}.yaml")]
    if choices.quick:
        words = ["--videos", "4", *words, "model.sampler_config.params.num_steps=2"]
    return Job(f"judge_{NUMBERS}", out / f"{NUMBERS}.md", ("-m", "benchmarks.numbers_judge", "model", *words),
               base=own_configs(NUMBERS))


def own_configs(part: str) -> tuple[str, ...]:
    """Return the configurations that a part's own one is made of."""
    return tuple(f"configs/tiny_{name}.yaml" for name in CONFIG_OF.get(part, (part,)))


def record_of(job: Job, folder: Path) -> str:
    """Return what a job's result depends on as text without the folder's own path."""
    command = [word for word in job.command if word.endswith((".py", ".yaml")) or not job.config]
    base = [plain(read_mapping(REPOSITORY / name)) for name in job.base]
    return json.dumps([command, job.config, base], sort_keys=True).replace(str(folder), ".")
