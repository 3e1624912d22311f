"""The choices of a comparison: samplers, steps, guiders and scales, as a form of the Make page that they fill in."""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE, class_named, classes, configured, fields_of
from cogvideo.studio.making import Asked
from cogvideo.studio.models import Model
from common.errors import ConfigError
from configuration.yaml_files import plain

STEPS, SCALE, NOTHING = "steps", "guidance scale", "nothing"
KINDS = (NOTHING, SAMPLER, STEPS, GUIDER, SCALE)
NUMBERS = {STEPS: ["6", "8", "12", "20", "25", "50"], SCALE: ["1", "2", "3", "6"]}
ROWS, COLUMNS = 3, 4  # the most that are compared
Choice = Mapping[str, str]  # kind -> value


@dataclass(frozen=True)
class Axis:
    """One side of the grid: a kind and its values."""

    kind: str
    values: tuple[str, ...]

    @classmethod
    def of(cls, kind: object, values: object, most: int, where: str) -> "Axis":
        """Return an axis as a user gave it. Raises ConfigError for an unknown kind, or no or too many values."""
        if kind not in KINDS:
            raise ConfigError(f"{where}: {str(kind)[:80]!r} is none of {', '.join(KINDS)}")
        given = tuple(dict.fromkeys(str(value).strip() for value in (values if isinstance(values, list) else [])))
        if kind == NOTHING:
            return cls(NOTHING, ("",))
        if not 1 <= len(given) <= most:
            raise ConfigError(f"{where}: {len(given)} values of {kind} are chosen; take 1 to {most}")
        return cls(str(kind), given)


def grid_of(rows: Axis, columns: Axis) -> list[Choice]:
    """Return the choices of the cells, row by row. Raises ConfigError if both axes are of one kind."""
    if rows.kind == columns.kind != NOTHING:
        raise ConfigError(f"rows and columns both are {rows.kind}; choose another kind for one of them")
    return [{axis.kind: value for axis, value in ((rows, row), (columns, column)) if axis.kind != NOTHING}
            for row in rows.values for column in columns.values]


def title_of(choice: Choice) -> str:
    """Return a choice in words, such as "UniPCSampler, 12 steps"."""
    said = {STEPS: "{} steps", SCALE: "scale {}"}
    return ", ".join(said.get(kind, "{}").format(value) for kind, value in choice.items()) or "as configured"


def names_of(kind: str) -> list[str]:
    """Return the values that the page proposes of a kind: classes that need no more than a scale, or numbers."""
    if kind not in (SAMPLER, GUIDER):
        return NUMBERS.get(kind, [])
    return [name for name, cls in classes(kind).items() if kind == SAMPLER or _needs_a_scale_alone(cls)]


def _needs_a_scale_alone(guider: type) -> bool:
    try:
        guider(scale=1.0)
    except (ConfigError, TypeError):
        return False
    return True


def asked_for(name: str, model: Model, prompt: object, seed: object, choice: Choice) -> Asked:
    """Return the Make page's form for a choice: what it does not name is as the model is configured.

    A sampler or guider keeps those parameters of the configured one that it has. Raises ConfigError for a class that
    is not offered.
    """
    sampler = plain(model.arguments().model_config.sampler_config)
    params = sampler.get("params") or {}
    parts = {SAMPLER: configured(SAMPLER, sampler), SCHEDULE: configured(SCHEDULE, params["discretization_config"]),
             GUIDER: configured(GUIDER, params.get("guider_config") or {})}
    for role in (SAMPLER, GUIDER):
        if role in choice:
            parts[role] = _exchanged(role, choice[role], parts[role][1])
    if SCALE in choice:
        guider, values = parts[GUIDER]
        parts[GUIDER] = guider, {**values, "scale": _number(choice[SCALE])}
    line = " ".join(prompt.split()) if isinstance(prompt, str) else ""
    asked = Asked(name, line, seed=seed, steps=params.get("num_steps"), parts=parts)
    return replace(asked, steps=_number(choice[STEPS])) if STEPS in choice else asked


def _exchanged(role: str, name: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a class's name, and those values that it has a parameter for. Raises ConfigError for an unknown one."""
    taken = {field.name for field in fields_of(class_named(role, name))}
    return name, {key: value for key, value in values.items() if key in taken}


def _number(text: str) -> int | float | str:
    """Return the number that a text is; any other text stays, and is refused with the key that it is for."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
