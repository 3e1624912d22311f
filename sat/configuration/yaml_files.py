"""Reading of YAML configurations: merging, dotted overrides, and paths independent of the working directory."""
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import ConfigError
from common.files import REPOSITORY, expanded_path
from common.suggestions import nearest
from common.text import read_text
from common.typed import shown
from configuration.yaml_text import UNREADABLE, parse, reason_of

# Numbers that YAML 1.1 reads in base 8 or 60.
UNMEANT = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
SECTIONS = ("args", "model", "data", "deepspeed")
# Parameters anywhere below `model` whose value is the path of a file or folder to read.
MODEL_PATHS = ("model_dir", "ckpt_path", "cache_dir")


def read_file(path: str) -> DictConfig:
    """Read one YAML file, whose path is relative to the current folder or the repository's root.

    Raises ConfigError if it is missing, unreadable, no mapping, or has an unknown section.
    """
    found = existing_path(str(expanded_path(path, "--base")), Path.cwd(), REPOSITORY)
    if Path(found).is_dir():
        raise ConfigError(f"configuration file {path} is a folder; name a YAML file in it")
    if not Path(found).is_file():
        folder = (REPOSITORY / path).parent
        known = [str(p.relative_to(REPOSITORY)) for p in folder.glob("*.yaml")] if REPOSITORY in folder.parents else []
        raise ConfigError(f"configuration file {path} does not exist{nearest(path, known)}")
    config = read_mapping(found)
    check_sections(config, path)
    return config


def check_sections(config: DictConfig, source: str) -> None:
    """Raise ConfigError, which names `source`, for a configuration with an unknown section, or one of no keys."""
    for key, section in config.items():
        key = str(key)
        if key not in SECTIONS:
            raise ConfigError(f"{source}: unknown section {shown(key)}{nearest(key, SECTIONS)} "
                              f"(known: {', '.join(SECTIONS)})")
        if not isinstance(section, DictConfig) and section is not None:
            raise ConfigError(f"{source}: section {key} must be a mapping of keys to values")


def read_mapping(path: str | Path) -> DictConfig:
    """Read a YAML file that holds a mapping. Raises ConfigError, or DataError for bytes that are no text."""
    config = parse(read_text(path), str(path))
    if not isinstance(config, DictConfig):
        what = "is empty" if config is None else "is a list"
        raise ConfigError(f"{path} {what}, not a mapping with keys; is it the right file? (prompts: --input-file)")
    return config


def merge(configs: Sequence[DictConfig]) -> Any:
    """Merge configurations key by key; later ones win and replace whole lists. Sections that none has are empty."""
    given = [{k: v for k, v in c.items() if v is not None} for c in configs]
    try:
        merged = OmegaConf.merge({section: {} for section in SECTIONS}, *given)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration files do not merge: {_first_line(error)}") from error
    return merged


def require(config: Any, where: str, *keys: str) -> Mapping:
    """Return `config` if it is a mapping that has `keys`; else raise ConfigError naming what `where` lacks."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where} is missing or not a mapping; does --base lack a file?")
    for key in keys:
        if config.get(key) is None:
            raise ConfigError(f"{where}.{key} is missing; add it{nearest(key, set(config) - set(keys))}")
    return config


def set_key(config: DictConfig, key: str, value) -> None:
    """Set one dotted key, in place; numbers index lists (`emb_models.0.params.max_length`).

    A mapping replaces the existing one instead of being merged with it, so that another class can have other
    parameters. Raises ConfigError if the key cannot be set.
    """
    root = key.split(".")[0].split("[")[0]
    if root not in SECTIONS:
        raise ConfigError(f"{key}: unknown section {root}{nearest(root, SECTIONS)} (sections: {', '.join(SECTIONS)})")
    try:
        replaces = isinstance(value, dict) and key not in SECTIONS
        OmegaConf.update(config, key, value, merge=not replaces, force_add=True)
    except (OmegaConfBaseException, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"{key} cannot be set: {_first_line(error)}") from error
    if not isinstance(config[root], DictConfig):
        raise ConfigError(f"{key} cannot be set: {root} is a section, which must be a mapping")


def parse_override(text: str) -> tuple[str, object]:
    """Split `key=value` and read the value as YAML: numbers, true/false, null, [lists], {mappings}, else text.

    Raises ConfigError for a value that is not valid YAML, and for one that YAML would read as something else than who
    types it means: 010 as 8, 1:30 as 90, and what follows a blank and # not at all.
    """
    key, _, raw = text.partition("=")
    if UNMEANT.fullmatch(raw.strip()):
        raise ConfigError(f"override {shown(text)}: YAML takes a leading 0 for octal and a colon for sixtieths; write "
                          "the number itself")
    if " #" in raw and raw[:1] not in ("'", '"', "[", "{"):
        raise ConfigError(f"override {shown(text)}: in YAML what follows a blank and # is a comment; put the value "
                          "into quotation marks that the shell leaves")
    if raw[:1] in ("[", "{"):
        parse(raw, f"override {shown(text)}")  # its size is bounded
    try:
        value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]), resolve=False)
        return key, value["value"]
    except UNREADABLE as error:
        raise ConfigError(f"override {shown(text)}: {reason_of(error)}") from error


def plain(config: Any) -> Any:
    """Return a configuration as plain containers, `${...}` replaced; anything else as it is."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return plain containers with `${...}` replaced. Raises ConfigError for a reference to a missing key."""
    try:
        containers: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not resolve: {_first_line(error)}") from error
    return containers


def existing_path(path: str, *bases: Path) -> str:
    """Return the path below the first of `bases` where it exists; unchanged if none has it (the reader reports it)."""
    expanded = os.path.expanduser(path)  # leaves the names of unknown users as they are
    for base in bases:
        if os.path.exists(base / expanded):  # False, too, for what no system accepts as a path
            return str(base / expanded)
    return str(path)


def make_model_paths_absolute(model, *bases: Path) -> None:
    """Make the paths named below `model` (keys in MODEL_PATHS) absolute, in place, as `existing_path` does."""
    if OmegaConf.is_list(model):
        for item in model:
            make_model_paths_absolute(item, *bases)
    if not OmegaConf.is_dict(model):
        return
    for key in model:
        unknown = OmegaConf.is_missing(model, key) or OmegaConf.is_interpolation(model, key)
        value = None if unknown else model[key]
        if key in MODEL_PATHS and isinstance(value, str):
            model[key] = existing_path(str(expanded_path(value, str(key))), *bases)
        make_model_paths_absolute(value, *bases)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
