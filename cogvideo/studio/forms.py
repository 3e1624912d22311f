"""Forms for the parameters of a class, made from its own declaration: kind, default, bounds and help."""
import inspect
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from types import MappingProxyType, ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt

from common.errors import ConfigError
from configuration.targets import is_base
from sgm import discretizer, guiders, sampling

SAMPLER, SCHEDULE, GUIDER = "sampler", "schedule", "guider"
BASES: Mapping[str, tuple[ModuleType, tuple[type, ...]]] = {
    SAMPLER: (sampling, (sampling.Sampler,)), SCHEDULE: (discretizer, (discretizer.Discretization,)),
    GUIDER: (guiders, (guiders.Guider, guiders.IdentityGuider))}
# Parameters that name files or classes: a class which has one is not offered, for no path comes from the page.
FILES = {"ckpt_path", "network_config"}
# Parameters with a place of their own on the page, or that only files of the release set.
ELSEWHERE = {"discretization_config", "guider_config", "discretization", "guider", "num_steps", "verbose", "device",
             "fixed_frames", "sdedit", "dyn_thresh_config"}
FLAG, CHOICE, WHOLE, NUMBER, TEXT = "flag", "choice", "whole", "number", "text"
FAR = 10 ** 6  # bounds beyond this are of no use to anyone


@dataclass(frozen=True)
class Field:
    """A parameter as a form asks for it: its name, the kind of its value, its default and its bounds.

    The value of a TEXT is written as in YAML. `required`: the class has no default.
    """

    name: str
    kind: str
    default: Any
    required: bool = False
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None

    def value(self, given: Any) -> Any:
        """Return the parameter that a form's value stands for; what fits no kind is refused where it is used."""
        if self.kind == TEXT:
            try:
                return yaml.safe_load(str(given)) if str(given).strip() else None
            except yaml.YAMLError as error:
                raise ConfigError(f"{self.name} is not written as in YAML: {str(given)[:80]!r}") from error
        if self.kind == WHOLE and isinstance(given, float) and given.is_integer():
            return int(given)
        return given

    def takes(self, value: Any) -> bool:
        """Return True for a number within the bounds."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def shown(self, value: Any) -> Any:
        """Return what a form shows for a parameter's value."""
        if self.kind != TEXT:
            return value
        return "" if value is None else yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def classes(role: str) -> dict[str, type]:
    """Return the classes of a role by name: all but bases, and those that read files."""
    module, bases = BASES[role]
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: cls for name, cls in sorted(found.items())
            if inspect.isclass(cls) and issubclass(cls, bases) and not is_base(cls)
            and not (cls.__doc__ or "").startswith("Base") and not FILES & set(inspect.signature(cls).parameters)}


def class_named(role: str, name: object) -> type:
    """Return a class of a role. Raises ConfigError for a name that is not offered."""
    known = classes(role)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{role} {str(name)[:80]!r} is none of {', '.join(known)}")
    return known[name]


def help_of(cls: type) -> str:
    """Return a class's description, with those of its bases that declare what the form asks for."""
    asked = set(inspect.signature(cls).parameters) - ELSEWHERE
    parts = [cls, *(base for base in cls.__mro__[1:] if asked & set(vars(base).get("__annotations__", ())))]
    return "\n\n".join(inspect.cleandoc(part.__doc__) for part in parts if part.__doc__)


def fields_of(cls: type) -> list[Field]:
    """Return the parameters of a class that a form asks for."""
    return [_field(name, parameter) for name, parameter in inspect.signature(cls).parameters.items()
            if name not in ELSEWHERE]


def _field(name: str, parameter: inspect.Parameter) -> Field:
    required = parameter.default is parameter.empty
    default = None if required else _default(parameter.default)
    optional, kind, marks = _unfolded(parameter.annotation)
    low, high = _bound(marks, Ge, Gt), _bound(marks, Le, Lt)
    if get_origin(kind) is Literal:
        return Field(name, CHOICE, default, required, choices=get_args(kind))
    if kind is bool:
        return Field(name, FLAG, default, required)
    if kind in (int, float) and not optional and not (isinstance(default, float) and math.isinf(default)):
        return Field(name, WHOLE if kind is int else NUMBER, default, required, low=low, high=high)
    return Field(name, TEXT, default, required)


def _bound(marks: tuple, *kinds: type) -> float | None:
    """Return the bound of the first mark of these kinds; None without one, and for one that is far away."""
    for mark in marks:
        if isinstance(mark, kinds):
            bound = float(next(getattr(mark, name) for name in ("ge", "gt", "le", "lt") if hasattr(mark, name)))
            return bound if abs(bound) < FAR else None
    return None


def _default(default: Any) -> Any:
    """Return a parameter's default in plain values; that of a dataclass's factory is made."""
    if default is MISSING or type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return None
    return default


def _unfolded(hint: Any) -> tuple[bool, Any, tuple]:
    """Return whether a hint allows None, its plain type, and the marks of its annotation."""
    optional, marks = False, ()
    while True:
        if get_origin(hint) is Annotated:
            marks = (*marks, *get_args(hint)[1:])
            hint = get_args(hint)[0]
        elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint) and len(get_args(hint)) == 2:
            optional = True
            hint = next(arg for arg in get_args(hint) if arg is not NoneType)
        else:
            return optional, hint, marks


def part_of(role: str, name: object, given: Mapping[str, Any], own: Mapping[str, Any] = MappingProxyType({})
            ) -> dict[str, Any]:
    """Return `{target, params}` of a class with the form's values; those that are the default are left out.

    `own` is the model's configured part: if it is of the same class, its parameters that no form asks for are kept.
    Raises ConfigError for a class that is not offered, and for values that are not there.
    """
    cls = class_named(role, name)
    same = _name_of(role, own) == name
    kept = own.get("params") or {} if same else {}
    params = {key: value for key, value in kept.items() if key in ELSEWHERE}
    for field in fields_of(cls):
        value = field.value(given[field.name]) if field.name in given else field.default
        if value is None and field.required:
            raise ConfigError(f"{name}: {field.name} is missing; it has no default")
        if value != field.default or field.name in kept:
            params[field.name] = value
    target = own.get("target") if same else None
    return {"target": target or f"{BASES[role][0].__name__}.{name}", "params": params}


def carried(role: str, name: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a form's values that another class needs, too, and takes: a guider's scale."""
    cls = class_named(role, name)
    return {field.name: values[field.name] for field in fields_of(cls)
            if field.required and field.kind == NUMBER and field.takes(values.get(field.name))}


def _name_of(role: str, part: Mapping[str, Any]) -> str:
    default = guiders.IdentityGuider.__name__ if role == GUIDER else ""
    return str(part.get("target") or default).rpartition(".")[2]


def configured(role: str, part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class name of a configured part, and its parameters on the form; a guider may be left out.

    Raises ConfigError for a class that is not offered.
    """
    name = _name_of(role, part)
    params = part.get("params") or {}
    if name not in classes(role):
        raise ConfigError(f"the {role} {name[:80]} cannot be chosen on this page; use sample_video.py")
    return name, {field.name: params[field.name] for field in fields_of(class_named(role, name))
                  if field.name in params}
