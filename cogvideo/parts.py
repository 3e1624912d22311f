"""Other samplers, schedules and guiders over the same weights."""
import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

from cogvideo.inputs import plain
from common.errors import ConfigError
from common.kinds import Steps
from common.typed import checked, shown
from configuration.targets import instantiate_from_config
from diffusion_video import DiffusionEngine
from engine.checks import check_zeroed
from sgm.sampling import Sampler, check_compatible
from sgm.sampling.parts import built_guider, built_schedule


def with_parts(engine: DiffusionEngine, network: Mapping, sampler: Any = None, schedule: Any = None, guider: Any = None,
               num_inference_steps: int | None = None, guidance_scale: float | None = None) -> DiffusionEngine:
    """Return an engine over the same weights with other parts; `network` are the parameters of its transformer.

    What a new sampler was not given, it takes from the engine's: schedule, guider, number of steps. Raises ConfigError
    for parts that do not fit.
    """
    former: Any = engine.sampler
    chosen: Any = copy.copy(former) if sampler is None else _sampler(sampler, former)
    if schedule is not None:
        chosen.discretization = built_schedule(schedule, None)
    if guider is not None:
        chosen.guider = built_guider(guider, None)
    if num_inference_steps is not None:
        chosen.num_steps = checked(Steps, plain(num_inference_steps), "num_inference_steps")
    if guidance_scale is not None:
        chosen.guider = _scaled(chosen.guider, plain(guidance_scale))
    chosen.schedule()  # refuses a number of steps that the schedule cannot have
    check_compatible(chosen, engine.denoiser)
    _check_guider(chosen.guider, former.guider, network)
    check_zeroed(engine.config, chosen.guider)
    changed = copy.copy(engine)
    changed.sampler = chosen
    return changed


def _sampler(given: Any, former: Sampler) -> Sampler:
    """Return a sampler of an object, or of a `{target, params}`, completed by the former one's parts."""
    if isinstance(given, Mapping):
        params = dict(given.get("params") or {})
        if not {"discretization", "discretization_config"} & params.keys():
            params["discretization_config"] = None
        given = instantiate_from_config({**given, "params": params})
    if isinstance(given, type) and issubclass(given, Sampler):
        raise ConfigError(f"sampler is the class {given.__name__}; give an object of it, such as {given.__name__}()")
    if not isinstance(given, Sampler):
        raise ConfigError(f"sampler is {shown(given)}; it must be a Sampler, or its {{target, params}}")
    chosen: Any = copy.copy(given)
    if chosen.discretization is None:
        chosen.discretization = former.discretization
    if not chosen.has_guider:
        chosen.guider = former.guider
    if chosen.num_steps is None:
        chosen.num_steps = former.num_steps
    return chosen


def _check_guider(guider: Any, loaded: Any, network: Mapping) -> None:
    """Raise ConfigError for a guider whose branches the loaded networks cannot evaluate."""
    guider.check_network(network)
    if guider.weak is not None and guider.weak != loaded.weak:
        raise ConfigError(f"{type(guider).__name__} needs a weaker network, which is read when a model is loaded; "
                          "name the guider in the configuration")


def _scaled(guider: Any, scale: float) -> Any:
    """Return a guider with another scale. Raises ConfigError for a guider without one, or a scale it does not take."""
    if not is_dataclass(guider) or isinstance(guider, type) or "scale" not in {each.name for each in fields(guider)}:
        raise ConfigError(f"guidance_scale: {type(guider).__name__} has no scale; give another guider")
    kind = get_type_hints(type(guider), include_extras=True)["scale"]
    return replace(guider, scale=checked(kind, scale, "guidance_scale"))
