"""Values checked against annotations, such as those of a constructor's parameters, by pydantic.

The check is strict: text is no number and true is not 1. A whole number may be written as 3.0, as released files do,
and becomes 3; every other value is passed on as it is. Numbers are finite unless their kind says otherwise.
"""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError, ValidationInfo, WrapValidator
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from common.errors import ConfigError
from common.suggestions import nearest

LONGEST_SHOWN = 80
FAR = 1000  # a bound this far away is named only to those who passed it
CONTAINERS: Mapping[type, Any] = {kind: kind for kind in (list, tuple, dict, Sequence, Mapping)} | {Iterable: Sequence}


@dataclass(frozen=True)
class Fields:
    """A mark on the annotation of a mapping: its keys are the parameters of this function or class."""

    of: Callable

    def check(self, value: Any, info: ValidationInfo) -> Any:
        """Return the mapping with its names and values checked; anything that is no mapping as it is."""
        if not isinstance(value, Mapping):
            return value
        where = (info.context or {}).get("where", "")
        check_names(self.of, value, where)
        for name in missing(self.of, value):
            raise ConfigError(f"{where}.{name} is missing; add it")
        return typed(self.of, value, where)


def typed(function: Callable, given: Mapping, where: str) -> dict:
    """Return the values of a function's or class's parameters, each checked against its annotation.

    Parameters that are unknown or have no annotation are passed on. `where` is their place in the configuration. Raises
    ConfigError, which names the place, the value and what it must be.
    """
    known = _annotations(function)
    return {name: checked(known[name], value, f"{where}.{name}") if name in known else value
            for name, value in given.items()}


def checked(annotation: Any, value: Any, where: str) -> Any:
    """Return a value that fits an annotation. Raises ConfigError, which names the place `where`, if it does not fit."""
    try:
        adapter = _adapter(annotation)
    except TypeError:  # a stranger's annotation that cannot be remembered, since it holds a dict
        adapter = None
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value, context={"where": where})
    except ValidationError as error:
        wanted = wording(annotation, value)
        if any(found["type"] == "finite_number" for found in error.errors()):
            wanted = wanted.replace("a number", "a finite number").replace("numbers", "finite numbers")
        own = [found["ctx"]["error"] for found in error.errors() if found["type"] == "value_error"]
        must = str(own[0]) if own else f"it must be {wanted}" if wanted else error.errors()[0]["msg"]
        raise ConfigError(f"{where} is {shown(value)}; {must}{_nearest(annotation, value)}") from error


def check_names(function: Callable, given: Mapping, where: str) -> None:
    """Raise ConfigError, with the nearest right name, for a parameter that a function or class does not have."""
    accepted = signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return
    for name in given:
        if name not in accepted:
            raise ConfigError(f"{where}.{name}: {function.__name__} has no such parameter{nearest(name, accepted)}")


def missing(function: Callable, given: Mapping) -> list[str]:
    """Return the parameters without default that a function or class needs beside the given ones.

    Those that a class lists as `NEEDED_IN_FILES` count too, though Python may leave them out.
    """
    needed = getattr(function, "NEEDED_IN_FILES", ())
    return [name for name, p in signature(function).parameters.items() if name not in given
            and (p.default is p.empty or name in needed) and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def shown(value: Any) -> str:
    """Return a value as a message shows it: as in a YAML file, and shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a very deep tree
        return "too large to show"
    text = " ".join(text.encode(errors="backslashreplace").decode().split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


@cache
def _annotations(function: Callable) -> Mapping[str, Any]:
    """Return the annotations of a function's parameters, or a constructor's; none if a name in them is unknown."""
    try:
        return get_type_hints(function.__init__ if isinstance(function, type) else function,  # type: ignore[misc]
                              include_extras=True)
    except (NameError, TypeError):
        return {}


@cache
def _adapter(annotation: Any) -> TypeAdapter | None:
    try:
        return TypeAdapter(_strict(annotation), config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    except PydanticUserError:  # a stranger's class, with annotations that are none of pydantic's
        return None


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_given(value: Any, check: Callable) -> Any:
    check(value)
    return value


def _strict(annotation: Any) -> Any:
    """Return an annotation in which numbers, truth values and texts are strict, at any depth."""
    if annotation in (int, float, bool, str):
        return _strict(Annotated[annotation, Strict()])
    inside = get_args(annotation)
    if get_origin(annotation) is Annotated:
        kind, *marks = inside
        fields = [mark for mark in marks if isinstance(mark, Fields)]
        if fields:
            return Annotated[kind, BeforeValidator(fields[0].check)]
        extra = {int: BeforeValidator(_whole), float: WrapValidator(_as_given)}.get(kind)
        if kind in (int, float, bool, str):
            return Annotated[(kind, *marks, Strict(), *([extra] if extra else []))]
        return Annotated[(_strict(kind), *marks)]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_strict, inside))]  # noqa: UP007  # of a tuple that is known only now
    origin: Any = get_origin(annotation)
    if inside and origin in CONTAINERS:
        # pydantic checks an Iterable only when it is used
        return CONTAINERS[origin][tuple(part if part is ... else _strict(part) for part in inside)]
    return annotation


class _Schema(GenerateJsonSchema):
    """A description of an annotation, in which objects are left out."""

    def handle_invalid_for_json_schema(self, schema, error_info):
        return {}


def wording(annotation: Any, value: Any = None) -> str:
    """Return what a value must be, such as `a whole number above 0`; empty if an annotation cannot be described.

    A bound that is far away is named only if `value` is beyond it.
    """
    adapter = _adapter(annotation)
    return "" if adapter is None else _words(adapter.json_schema(schema_generator=_Schema), value)


def _words(schema: Mapping, value: Any = None) -> str:
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        words = list(dict.fromkeys(part for choice in choices for part in _alternatives(choice, value)))
        return _listed([word for word in words if word != "null"]) + (", or null" if "null" in words else "")
    if "enum" in schema or "const" in schema:
        return _listed([shown(item).strip("'") for item in schema.get("enum", [schema.get("const")])])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(schema, value)
    if kind == "array":
        return schema.get("description") or _list_words(schema, value)
    if kind == "object":
        inside = schema.get("additionalProperties")
        of_each = _words(inside) if isinstance(inside, Mapping) else ""
        return f"a mapping of names to {of_each}" if of_each else "a mapping"
    return {"string": "text", "boolean": "true or false", "null": "null"}.get(str(kind), "")


def _alternatives(schema: Mapping, value: Any) -> list[str]:
    """Return the words of one choice among several, which can be several themselves."""
    if schema.get("type") == "boolean":
        return ["true", "false"]
    if "enum" in schema and "null" not in map(shown, schema["enum"]):
        return [shown(item).strip("'") for item in schema["enum"]]
    return list(filter(None, [_words(schema, value)]))


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def _bounds(schema: Mapping, value: Any) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    number = value if isinstance(value, int | float) else 0
    if high is not None and high >= FAR and number <= high:
        high = None
    if below is not None and below >= FAR and number < below:
        below = None
    if low is not None and low <= -FAR and number >= low:
        low = None
    if low is not None and high is not None:
        return f" from {low} to {high}"
    parts = [f"{limit} or more" for limit in (low,) if limit is not None]
    parts += [f"above {limit}" for limit in (above,) if limit is not None]
    parts += [f"below {limit}" for limit in (below,) if limit is not None]
    parts += [f"at most {limit}" for limit in (high,) if limit is not None]
    return f" {' and '.join(parts)}".rstrip().replace(" 0 or more", ", 0 or more", 1)


def _list_words(schema: Mapping, value: Any) -> str:
    numbers = [one for one in value if isinstance(one, int | float)] if isinstance(value, list | tuple) else []
    items = _words(schema.get("items") or {}, max(numbers, key=abs, default=None))
    several = (items.replace("a whole number", "whole numbers").replace("a number", "numbers")
               .replace("text", "texts").replace("a mapping", "mappings"))
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    count = f" of {least}" if least and least == most else f" of {least} or more" if least else ""
    return f"a list{count}{' ' if count else ' of '}{several}" if several else f"a list{count}"


def _nearest(annotation: Any, value: Any) -> str:
    """Return the nearest of the names that an annotation allows, for a misspelt one."""
    names = [name for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal
             for name in get_args(part)]
    return nearest(value, filter(lambda name: isinstance(name, str), names)) if isinstance(value, str) else ""
