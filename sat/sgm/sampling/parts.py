"""The parts of a sampler, schedule and guider, given as objects or as configurations."""
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from common.errors import ConfigError
from common.typed import shown
from configuration.targets import instantiate_from_config
from sgm.discretizer.base import Discretization
from sgm.guiders import Guider, IdentityGuider

UNGUIDED = IdentityGuider()  # of a sampler that was given no guider


def _object(value: Any) -> Any:
    if isinstance(value, str | int | float | list | tuple | Mapping):
        raise ValueError("it is an object, which only Python gives; write discretization_config or guider_config")
    return value


Built = Annotated[Any, AfterValidator(_object)]  # a parameter that files cannot give


def built_schedule(given: Any, config: Mapping | None) -> Discretization | None:
    """Return the schedule of an object or a `{target, params}`; None without either. Raises ConfigError."""
    return _built(given, config, "discretization", (Discretization,))


def built_guider(given: Any, config: Mapping | None) -> Guider | IdentityGuider:
    """Return the guider of an object or a `{target, params}`; `UNGUIDED` without either. Raises ConfigError."""
    found = _built(given, config, "guider", (Guider, IdentityGuider))
    return UNGUIDED if found is None else found


def _built(given: Any, config: Mapping | None, name: str, kinds: tuple[type, ...]) -> Any:
    if given is not None and config is not None:
        raise ConfigError(f"{name} and {name}_config are both given; give one of them")
    given = config if given is None else given
    given = instantiate_from_config(given) if isinstance(given, Mapping) else given
    if isinstance(given, type) and issubclass(given, kinds):
        raise ConfigError(f"{name} is the class {given.__name__}; give an object of it, such as {given.__name__}(…)")
    if given is not None and not isinstance(given, kinds):
        raise ConfigError(f"{name} is {shown(given)}; it must be a {kinds[0].__name__}, or its {{target, params}}")
    return given
