"""The arguments of a run: declaration of every key, and reading of configuration files and command line into them."""
import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import ConfigError
from common.files import REPOSITORY, expanded_path
from common.suggestions import nearest
from common.typed import checked, shown
from common.unread import warn_unread
from configuration.precedence import values_of, warn_overridden
from configuration.references import check_references
from configuration.settings import KEYS, Arguments, resolve_device, resolve_dtype
from configuration.targets import allow_own_targets
from configuration.unread import SETTINGS
from configuration.yaml_files import (
    SECTIONS,
    existing_path,
    make_model_paths_absolute,
    merge,
    parse_override,
    plain,
    read_file,
    resolved,
    set_key,
)
from weights.diffusers_folder import is_pipeline, use_pipeline_parts

LONGEST_MESSAGE = 300  # characters
RECORDS = "from_metadata"
DATA_KEYS = ("target", "params", "stages")
OVERRIDE = re.compile(rf"({'|'.join(SECTIONS)})([.\[][^\s=]*)?=")
GUIDER = "model.sampler_config.params.guider_config"
STEPS = "model.sampler_config.params.num_steps"
# What a guider keeps where --use-dynamic-cfg or --no-dynamic-cfg replaces it: all but its class and schedule.
KEPT_OF_GUIDER = ("scale", "sigma_lo", "sigma_hi", "rescale", "dyn_thresh_config")
# Flags that set keys below `model`: name -> (type, keys, help). A key in parentheses is set only where it exists.
MODEL_FLAGS = {
    "num_inference_steps": (int, (STEPS, f"({GUIDER}.params.num_steps)"), "sampling steps (presets: 50)"),
    "guidance_scale": (float, (f"{GUIDER}.params.scale",), "classifier-free guidance (presets: 6.0)"),
}


def get_args(argv: Sequence[str] | None = None, description: str = "", recorded: DictConfig | None = None) -> Arguments:
    """Return the merged arguments: files from left to right, then flags, then `key=value`; the later one wins.

    `recorded` is the configuration of a record, which then takes the place of the files. Raises ConfigError for a file,
    section, key or value that is wrong. Nothing below `model` is imported or built.
    """
    options, overrides = _read_command_line(argv, description)
    if (options.pop(RECORDS, None) is None) != (recorded is None):
        raise ConfigError(f"{_flag(RECORDS)} makes videos again, which only sample_video.py does; leave it out")
    opened = options.pop("allow_targets", ())
    words = [*(f"args.{name}" for name in options), *(text.partition("=")[0] for text in overrides)]
    by_hand = [key for key in KEYS if f"args.{key}" in words]
    try:
        config = _merged(options, overrides, options.pop("allow_env", ()), recorded)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be read: {' '.join(str(error).split())[:300]}") from error
    allow_own_targets(plain(config), opened)
    warn_unread(config.args, SETTINGS, "args")
    for key in config.data:
        if key not in DATA_KEYS:
            raise ConfigError(f"unknown key data.{key}{nearest(key, DATA_KEYS)}; what to read goes below data.params")
    values = {key: _converted(key, value) for key, value in plain(config.args).items()}
    values["device"] = resolve_device(values.get("device"))
    args = replace(Arguments.grouped(values, config), composed=plain(config), allow_targets=list(opened),
                   typed=by_hand)
    _check_values(args)
    resolve_dtype(args.run.fp16, args.run.bf16)
    return args


def named_records(argv: Sequence[str] | None = None, description: str = "") -> tuple[list[str], Any]:
    """Return the files and folders of records that a command line names, and its output folder; none, None without."""
    options, overrides = _read_command_line(argv, description)
    typed = dict(parse_override(text) for text in overrides)
    return options.get(RECORDS, []), typed.get("args.output_dir", options.get("output_dir"))


def _merged(options: dict, overrides: Sequence[str], environment: Collection[str], recorded: DictConfig | None
            ) -> DictConfig:
    """Return the configuration that files, flags and `key=value` words make together, its references followed."""
    loaded = []
    if recorded is not None:
        _check_keys(recorded.get("args"), "its config")
        loaded.append(recorded)
        _anchor(recorded, REPOSITORY, Path.cwd())
    for path in options.pop("base") or []:
        loaded.append(read_file(path))
        _check_keys(loaded[-1].get("args"), path)
        _anchor(loaded[-1], REPOSITORY, Path.cwd())
    config = merge(loaded)
    check_references(config, environment)
    kept = None if recorded is None else config.args.get("load")  # whose parts the record has already
    _apply_options(config, options)
    typed = [parse_override(text) for text in overrides]
    load = dict(typed).get("args.load", config.args.get("load"))
    if isinstance(load, str) and load != kept and is_pipeline(existing_path(load, Path.cwd(), REPOSITORY)):
        use_pipeline_parts(config.model, existing_path(load, Path.cwd(), REPOSITORY))  # overrides come after it and win
    by_flag = {key: _typed_flag(name, value) for name, value in options.items() for key in _keys_of(name)}
    before = values_of(config, by_flag)
    for key, value in typed:
        set_key(config, key, value)
    warn_overridden(config, by_flag, before, [key for key, _ in typed])
    _check_keys(config.args, "command line")
    check_references(config, environment)
    config = OmegaConf.create(resolved(config))
    check_references(config)  # none are left, in the value of an environment variable either
    _anchor(config, Path.cwd(), REPOSITORY)
    return config


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ConfigError(f"command line: {message[:LONGEST_MESSAGE]}")


def _read_command_line(argv: Sequence[str] | None, description: str) -> tuple[dict, list[str]]:
    """Return the flags that were given, by name, and the `key=value` words."""
    parser = _Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                     epilog="Any configuration key can be set as key=value, such as args.sampling_fps=16.")
    parser.add_argument("--base", nargs="+", action="extend", default=None, metavar="YAML",
                        help="YAML files, merged left to right")
    parser.add_argument(_flag(RECORDS), nargs="+", action="extend", metavar="RECORD",
                        help="sample_video.py: make the videos of these records (or videos, or folders of them) again")
    parser.add_argument("--allow-targets", nargs="+", action="extend", metavar="MODULE",
                        help="modules outside this project whose classes may be named as targets")
    parser.add_argument("--allow-env", nargs="+", action="extend", metavar="NAME",
                        help="environment variables that the files may read as ${oc.env:NAME}")
    parser.add_argument("--use-dynamic-cfg", action="store_true",
                        help="guidance scale that changes from step to step (presets: on)")
    parser.add_argument("--no-dynamic-cfg", dest="use_dynamic_cfg", action="store_false", help="constant scale")
    for name, (kind, _, text) in MODEL_FLAGS.items():
        parser.add_argument(_flag(name), type=kind, help=text)
    for name, key in KEYS.items():
        parser.add_argument(_flag(name), help=f"{key.metadata['help']} (default: {key.default})", **_option_kind(key))
    words = list(sys.argv[1:] if argv is None else argv)
    certain = [w for w in words if OVERRIDE.match(w)]  # removed first: a flag that takes a list would take them
    known, rest = parser.parse_known_args([w for w in words if w not in certain])
    options = vars(known)
    possible = [w for w in [*(options["base"] or []), *rest]
                if "=" in w and not w.startswith("-") and not Path(w).is_file()]
    options["base"] = [w for w in options["base"] or [] if w not in possible]
    overrides = [w for w in words if w in certain or w in possible]
    unknown = [w for w in rest if w not in overrides]
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(f"command line: unknown argument {unknown[0]}{nearest(unknown[0], flags)}")
    if not options["base"] and RECORDS not in options:
        raise ConfigError("command line: no configuration; give --base MODEL.yaml configs/inference.yaml")
    if options["base"] and RECORDS in options:
        raise ConfigError(f"command line: --base and {_flag(RECORDS)} exclude each other: a record holds its whole "
                          "configuration; change it by options and key=value")
    return options, overrides


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _typed_flag(name: str, value) -> str:
    """Return the flag that a command line gave this value by."""
    return _flag(f"no_{name.removeprefix('use_')}" if value is False else name)


def _option_kind(key) -> dict:
    kind, choices = key.metadata["kind"], key.metadata["choices"]
    if kind == "bool":
        # BooleanOptionalAction reads every `--no-…` as false, even where no_ belongs to the name of the key.
        return {"action": "store_true" if key.name.startswith("no_") else argparse.BooleanOptionalAction}
    types = {"int": int, "float": float, "ints": int, "floats": float}
    if kind in ("inputs", "floats"):  # a second flag adds to the first
        return {"type": types.get(kind, str), "nargs": "+", "action": "extend"}
    return {"type": types.get(kind, str), "nargs": "+" if kind == "ints" else None, "choices": choices or None}


def _apply_options(config: DictConfig, options: Mapping) -> None:
    for name, value in options.items():
        if name == "use_dynamic_cfg":
            _switch_guider(config, value)
        elif name in MODEL_FLAGS:
            for key in MODEL_FLAGS[name][1]:
                _set_model_key(config, _flag(name), key, value)
        else:
            kind = KEYS[name].metadata["kind"]
            set_key(config, f"args.{name}", _anchored(_flag(name), kind, value, Path.cwd(), REPOSITORY))


def _keys_of(name: str) -> list[str]:
    """Return the keys that a flag sets."""
    if name == "use_dynamic_cfg":
        return [f"{GUIDER}.target"]
    return [key.strip("()") for key in MODEL_FLAGS[name][1]] if name in MODEL_FLAGS else [f"args.{name}"]


def _set_model_key(config: DictConfig, flag: str, key: str, value) -> None:
    optional, key = key.startswith("("), key.strip("()")
    if optional and OmegaConf.select(config, key) is None:
        return
    _section_of(config, flag, key.rsplit(".params.", 1)[0])
    set_key(config, key, value)


def _section_of(config: DictConfig, flag: str, key: str) -> DictConfig:
    section = OmegaConf.select(config, key)
    if not isinstance(section, DictConfig):
        raise ConfigError(f"{flag} sets {key}, which no file given with --base has")
    return section


def _switch_guider(config: DictConfig, dynamic: bool) -> None:
    """Replace the guider by DynamicCFG or VanillaCFG with what all guiders have, unless it is of that class already."""
    guider = _section_of(config, "--use-dynamic-cfg" if dynamic else "--no-dynamic-cfg", GUIDER)
    wanted = "DynamicCFG" if dynamic else "VanillaCFG"
    module, _, name = str(guider.get("target")).rpartition(".")
    if name == wanted:
        return
    before = guider.get("params") or {}
    params = {"scale": 6.0} | {key: before[key] for key in KEPT_OF_GUIDER if key in before}
    if dynamic:
        params |= {"exp": 5, "num_steps": OmegaConf.select(config, STEPS)}
    config.model.sampler_config.params.guider_config = {"target": f"{module}.{wanted}", "params": params}


def _check_keys(section, source: str) -> None:
    for key in section or ():
        if key in MODEL_FLAGS:
            raise ConfigError(f"{source}: unknown key args.{key}; as key=value it is {MODEL_FLAGS[key][1][0]}")
        if key not in KEYS:
            raise ConfigError(f"{source}: unknown key args.{key}{nearest(key, KEYS)}")


def _anchor(config: DictConfig, first: Path, second: Path) -> None:
    """Make the relative paths of a configuration absolute, in place.

    Inputs are looked for below `first`, then below `second`; outputs are placed below `first`.
    """
    make_model_paths_absolute(config.get("model"), first, second)
    section = config.get("args")
    for key in section or ():
        if not OmegaConf.is_interpolation(section, key):
            section[key] = _anchored(f"args.{key}", KEYS[key].metadata["kind"], section[key], first, second)


def _anchored(key: str, kind: str, value, first: Path, second: Path):
    if kind == "output" and isinstance(value, str):
        return str(first / expanded_path(value, key))
    if kind == "input" and isinstance(value, str):
        return existing_path(str(expanded_path(value, key)), first, second)
    if kind == "inputs" and isinstance(value, Sequence):
        return [_anchored(key, "input", one, first, second) for one in ([value] if isinstance(value, str) else value)]
    return value


def _converted(name: str, value):
    """Return the value as its key's kind; None is allowed only as the default. Raises ConfigError for a wrong one."""
    key = KEYS[name]
    kind, choices = key.metadata["kind"], key.metadata["choices"]
    if value is None and key.default is None:
        return None
    if choices and value not in choices:
        raise ConfigError(f"args.{name} is {shown(value)}; it must be one of {', '.join(choices)}"
                          f"{nearest(value, choices)}")
    single = {"inputs": str, "floats": int | float}.get(kind)
    value = [value] if single is not None and isinstance(value, single) else value
    return checked(str if name == "device" else key.type, value, f"args.{name}")


def _check_values(args: Arguments) -> None:
    sampling, _ = args.sampling, args.run.loras
    if sampling.save_denoised_every is not None and sampling.only_save_latents:
        raise ConfigError("args.save_denoised_every needs decoding, which args.only_save_latents skips; leave one out")
    expanded_path(args.training.experiment_name, "args.experiment_name")
