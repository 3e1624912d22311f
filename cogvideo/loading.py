"""Loading of a pipeline: a configuration, and settings as words of the command line or by name."""
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from arguments import MODEL_FLAGS, get_args
from cogvideo.inputs import plain
from cogvideo.pipeline import Pipeline
from common.console import quiet_libraries
from common.errors import ConfigError
from common.files import REPOSITORY
from common.suggestions import nearest
from common.typed import checked, shown
from configuration.unread import OF_COMMANDS
from configuration.yaml_files import existing_path
from inference.checks import check_run
from inference.text_embeddings import prepare_text_embeddings

CONFIGS = REPOSITORY / "configs"
SHARED = CONFIGS / "inference.yaml"
SWITCHES = {"use_dynamic_cfg": ("--no-dynamic-cfg", "--use-dynamic-cfg")}
# What only sample_video.py reads.
OF_A_COMMAND = {"plan", "input_type", "input_file", "output_dir", "resume", "save_denoised_every", "only_save_latents",
                "save_text_embeddings", *OF_COMMANDS["sample_video.py"]}
YAMLS_LINE_ENDS = "\x85\u2028\u2029"  # beside those of JSON: a text would be folded there
LISTS = {"allow_targets": "--allow-targets", "allow_env": "--allow-env"}


def load(config: str | Path, *overrides: str, loras: Mapping[str | Path, float] | Iterable[str | Path] | None = None,
         **settings: Any) -> Pipeline:
    """Load the model of a configuration file, such as `configs/tiny_t2v.yaml`, and return its pipeline.

    A bare name, such as `tiny_t2v`, is a file of `configs/`. `overrides` are words of the command line: `key=value` for
    any key of the configuration, or further files. `settings` are its options by name, such as `device="cpu"`,
    `load=...`, `num_frames=33` or `num_inference_steps=20`; a key with dots goes into `**{"model...": value}`. `loras`
    are LoRAs, files or folders, with their strengths (1 as trained). Raises ConfigError, CheckpointError or DataError,
    with one line on what is wrong, before weights are read.
    """
    check_settings("load", settings, overrides)
    if loras is not None:
        settings |= _loras(loras, settings)
    files = [_file(file) for file in (config, *(word for word in overrides if "=" not in str(word)))]
    words = [word for word in overrides if "=" in str(word)]
    with quiet_libraries():
        args = get_args(["--base", *files, str(SHARED), *words, *words_of(settings)])
        prepare_text_embeddings(args)
        return Pipeline.load(args, check_run(args))


def check_settings(call: str, settings: Iterable[str], words: Iterable[Any] = ()) -> None:
    """Raise ConfigError for a key that only the command line reads, given to a `call` by name or as `key=value`."""
    names = [*settings, *(str(word).partition("=")[0].lstrip("-").replace("-", "_") for word in words)]
    for key in (name.removeprefix("args.") for name in names):
        if key in OF_A_COMMAND:
            raise ConfigError(f"{call}: {key} is for the command line, and has no effect here; leave it out")


def _file(name: str | Path) -> str:
    """Return the path of a configuration file. Raises ConfigError, with the nearest known name, if there is none."""
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(f"load: {shown(name)} is no configuration; give the path of a YAML file, such as "
                          "configs/tiny_t2v.yaml")
    path = existing_path(str(name), Path.cwd(), REPOSITORY)
    own = CONFIGS / f"{name}.yaml"
    if not Path(path).exists() and Path(name).name == str(name):
        if own.is_file():
            return str(own)
        known = [file.stem for file in CONFIGS.glob("*.yaml")]
        raise ConfigError(f"load: there is no configuration {name}, here or in configs/"
                          f"{nearest(Path(name).stem, known)}")
    return path


def _loras(loras: Mapping[str | Path, float] | Iterable[str | Path], settings: Mapping) -> dict[str, Any]:
    """Return the settings of LoRAs. Raises ConfigError if they are given twice."""
    for key in ("load_lora", "lora_scale"):
        if key in settings:
            raise ConfigError(f"load: loras and {key} are both given; give one of them")
    if isinstance(loras, str | Path):
        loras = [loras]
    if not isinstance(loras, Iterable):
        raise ConfigError(f"load: loras is {shown(loras)}; give files, or a mapping of files to their scales")
    scales = list(loras.values()) if isinstance(loras, Mapping) else None
    return {} if not loras else {"load_lora": [str(file) for file in loras]} | (
        {} if scales is None else {"lora_scale": scales})


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words of the command line."""
    words = []
    for key, value in settings.items():
        if key in MODEL_FLAGS:
            words += [f"--{key.replace('_', '-')}={plain(value)}"]
        elif key in SWITCHES:
            words += [SWITCHES[key][checked(bool, value, key)]]
        elif key in LISTS:
            words += [LISTS[key], *checked(list[str], [value] if isinstance(value, str) else plain(value), key)]
        else:
            words += [f"{key if '.' in key else f'args.{key}'}={_text(key, value)}"]
    return words


def _text(key: str, value: Any) -> str:
    """Return a value as YAML reads it on one line."""
    def plain_text(part: Any) -> Any:
        if isinstance(part, Path | torch.device):
            return str(part)
        if plain(part) is part:
            raise ConfigError(f"load: {key} is {shown(part)}, which no configuration can hold")
        return plain(part)

    text = json.dumps(value, default=plain_text, ensure_ascii=False)
    return text.translate({ord(end): f"\\u{ord(end):04x}" for end in YAMLS_LINE_ENDS})
