"""Objects from `{target, params}` configurations: dotted paths, the allow-list, checks of parameters."""
import importlib
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import Any, get_type_hints

from common.errors import ConfigError
from common.suggestions import nearest
from common.typed import check_names, checked, missing, shown, typed
from common.unread import warn_unread
from configuration.roles import HOMES, ROLES, slot_of
from configuration.yaml_files import plain

# Paths of released configurations, and of this project's earlier ones. The longest that fits comes first; everything
# else is a real module path.
FORMER_PATHS = (
    ("sgm.modules.diffusionmodules.wrappers.", "network.wrapper."),
    ("sgm.modules.diffusionmodules.", "sgm."),
    ("sgm.modules.encoders.modules.", "engine.text_encoder."),
    ("sgm.modules.autoencoding.losses.discriminator_loss.", "vae_modules.adversarial."),
    ("sgm.modules.autoencoding.losses.video_loss.", "vae_modules.adversarial."),
    ("sgm.modules.autoencoding.losses.", "vae_modules.adversarial."),
    ("sgm.modules.autoencoding.lpips.model.model.", "vae_modules.discriminator."),
    ("sgm.modules.", "engine.conditioner."),
    ("sat.model.finetune.lora2.", "network.lora."),
    ("sgm.conditioner.", "engine.conditioner."),
    ("sgm.encoders.", "engine.text_encoder."),
    ("sgm.wrappers.", "network.wrapper."),
    ("dit_blocks.", "network.blocks."),
    ("dit_positions.", "network.positions."),
    ("dit_lora.", "network.lora."),
    ("step_cache.", "network.step_cache."),
)
# Keys that the configuration of an embedder may have beside `target` and `params`: attributes of its class.
SIBLING_KEYS = ("is_trainable", "ucg_rate", "input_key")

MAY_BE_NAMED = ("a target is one of this project's samplers, guiders, network parts and so on "
                "(sat/configuration/roles.py), or a class that --allow-targets opens")

_opened: set[str] = set()  # to all configurations of this process
_opened_to_some: set[str] = set()


def allow_targets(*prefixes: str) -> None:
    """Let all configurations name classes below these dotted prefixes too; only the command line may decide this."""
    _opened.update(prefixes)


def allow_own_targets(config: Any, own: Collection[str]) -> None:
    """Let one configuration, a tree, name classes below the prefixes `own` too.

    Raises ConfigError if it names those that are open to another configuration of this process alone.
    """
    _check_open(config, own, "")
    _opened_to_some.update(own)


def _check_open(config: Any, own: Collection[str], where: str) -> None:
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        if isinstance(value, Mapping | list):
            _check_open(value, own, f"{where}.{key}" if where else str(key))
        elif isinstance(value, str) and (key == "target" or key in ROLES):
            path = real_path(value)
            if _allowed(path) and not (_at_home(path) or _is_below(path, _opened) or _is_below(path, own)):
                raise ConfigError(f"{where}: {value} may not be named; it is open to another configuration, not to "
                                  "this one (--allow-targets)")


def get_obj_from_str(path: str, where: str = "target") -> type:
    """Return the class that a dotted path names, if it fills the role of its slot.

    `where` is the class's place in the configuration, which ends with the slot; a place that is no slot accepts the
    classes of every role. `allow_targets` adds classes. Raises ConfigError for any other path, before a module that
    may not be named is imported.
    """
    if not isinstance(path, str) or "." not in path:
        raise ConfigError(f"{where}: {shown(path)} is not a dotted path to a class, such as torch.nn.Identity")
    real = real_path(path)
    if not _allowed(real):
        raise ConfigError(f"{where}: {path} may not be named; {MAY_BE_NAMED}")
    module_path, name = real.rsplit(".", 1)
    module = _imported(module_path, path, where)
    obj = getattr(module, name, None)
    if obj is None:
        classes = [n for n, o in vars(module).items() if isinstance(o, type)]
        raise ConfigError(f"{where}: {path} does not resolve, {module_path} has no {name}{nearest(name, classes)}")
    if not isinstance(obj, type) or not _allowed(f"{obj.__module__}.{obj.__qualname__}"):
        raise ConfigError(f"{where}: {path} may not be named; {MAY_BE_NAMED}")
    if is_base(obj):
        raise ConfigError(f"{where}: {path} is only the base of other classes; name one of them")
    slot = slot_of(where)
    if slot in ROLES and not _fills(obj, ROLES[slot]):
        raise ConfigError(f"{where}: {path} cannot be a {slot}, which needs {' or '.join(ROLES[slot])}")
    return obj


def _imported(module: str, path: str, where: str) -> ModuleType:
    """Return a module. Raises ConfigError if it cannot be imported; whatever one that was opened raises is its own."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{where}: {path} does not resolve ({error}); correct the path or install what is missing"
                          ) from error
    except (Exception, SystemExit) as error:
        if not _opened_to(module):
            raise
        raise ConfigError(f"{where}: {path} does not resolve, {module} cannot be imported ({type(error).__name__}: "
                          f"{error}); run python -c 'import {module}'") from error


def is_base(cls: type) -> bool:
    """Return True for a class with methods that are left to its subclasses."""
    return any(getattr(getattr(cls, name, None), "__isabstractmethod__", False) for name in dir(cls))


def _fills(cls: type, role: tuple[str, ...]) -> bool:
    """Return True if a class is of this role: defined in one of its modules, or a subclass of one of its classes."""
    for name in role:
        module, _, base = name.rpartition(".")
        if base[:1].isupper():
            if issubclass(cls, getattr(importlib.import_module(module), base)):
                return True
        elif cls.__module__ == name or _opened_to(cls.__module__):
            return True
    return False


def instantiate_from_config(config: Mapping | None, **extra) -> Any:
    """Build `config["target"](**config["params"], **extra)`; `params` may be missing, `extra` takes precedence.

    Raises ConfigError if the target is not allowed, if parameters are unknown or missing, or if the class rejects a
    value.
    """
    config = plain(config)
    cls = _target_class(config, "target")
    where = f"{config['target']} params"
    given = _parameters(config, where)
    check_names(cls, {**given, **extra}, where)
    params = {**typed(cls, given, where), **extra}
    if lacking := missing(cls, params):
        raise ConfigError(f"{where}: {', '.join(lacking)} missing; add to its params")
    try:
        return cls(**params)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_config(config, where: str = "model") -> Any:
    """Check every `{target, params}` in a tree without building anything; warn of parameters that nothing reads.

    Returns the tree as plain containers, in which whole numbers are whole also where they are written as 3.0. The
    annotations of a class's constructor are the check of its parameters, see common.typed; a class declares those that
    nothing reads as `UNREAD`, see common.unread. Raises ConfigError with the position in the tree if a target does not
    resolve or is not allowed, if its class has no such parameter, or if a value does not fit.
    """
    config = plain(config)
    if isinstance(config, Mapping):
        if "target" in config or "params" in config or _is_slot(where):
            config = _checked_target(config, where)
        return {key: check_config(value, f"{where}.{key}") for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [check_config(value, f"{where}[{i}]") for i, value in enumerate(config)]
    if _is_slot(where) and config is not None and slot_of(where).endswith("_config"):
        raise ConfigError(f"{where} is {shown(config)}; it must be a mapping of target and params")
    return config


def check_data_section(section) -> dict:
    """Return section `data` with its class's parameters checked as `check_config` does; its other keys stay."""
    section = plain(section)
    named = {key: section[key] for key in ("target", "params") if key in section}
    return {**section, **check_config(named, "data")}


def _is_slot(where: str) -> bool:
    return slot_of(where) in ROLES and "." in where  # section data may be empty


def _checked_target(config: Mapping, where: str) -> Mapping:
    cls = _target_class(config, where)
    known = ("target", "params", *(key for key in SIBLING_KEYS if hasattr(cls, key)))
    for key in config:
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key beside target and params{nearest(key, known)}")
    params = _parameters(config, where)
    check_names(cls, params, f"{where}.params")
    params = typed(cls, params, f"{where}.params")
    warn_unread(params, getattr(cls, "UNREAD", {}), f"{where}.params")
    kinds = get_type_hints(cls, include_extras=True)
    beside = {key: checked(kinds[key], config[key], f"{where}.{key}") for key in SIBLING_KEYS if key in config}
    return {**config, **beside} | ({"params": params} if params else {})


def _parameters(config: Mapping, where: str) -> Mapping:
    params = config.get("params")
    if params is not None and not isinstance(params, Mapping):
        raise ConfigError(f"{where}.params: must be a mapping of parameter names to values, not {shown(params)}")
    return params or {}


def _target_class(config, where: str) -> type:
    if not isinstance(config, Mapping) or "target" not in config:
        raise ConfigError(f"{where}: no target given in {shown(config)}; write target: dotted.path.of.Class")
    return get_obj_from_str(config["target"], where)


def real_path(path: str) -> str:
    """Return the module path of a target, which may be written as in released or earlier configurations."""
    for old, new in FORMER_PATHS:
        if path.startswith(old):
            return new + path[len(old):]
    return path


def _allowed(path: str) -> bool:
    """Return True if a class, or the module before its name, is in one of the homes or was opened."""
    return _opened_to(path) or _at_home(path)


def _at_home(path: str) -> bool:
    return path == "torch.nn.Identity" or _is_below(path, HOMES)


def _opened_to(path: str) -> bool:
    return _is_below(path, _opened) or _is_below(path, _opened_to_some)


def _is_below(path: str, prefixes: Iterable[str]) -> bool:
    return any(path == prefix or path.startswith(prefix + ".") for prefix in prefixes)
