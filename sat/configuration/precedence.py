"""Flags whose keys `key=value` words set after them, and which therefore have no effect."""
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from common.typed import shown

logger = logging.getLogger(__name__)


def values_of(config: DictConfig, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each dotted key of `keys`, which names the flag that set it."""
    return {key: OmegaConf.select(config, key) for key in keys}


def warn_overridden(config: DictConfig, keys: Mapping[str, str], before: Mapping[str, Any], words: Sequence[str]
                    ) -> None:
    """Log a warning for each flag whose value is gone, after `words`, the keys of `key=value`, were set.

    `before` has the values that the flags set, by key. Where another key of the same flag has its value still, a key
    that is gone altogether, as of a guider that has no steps, is no loss.
    """
    now = values_of(config, keys)
    gone = {key for key in keys if now[key] != before[key] and any(f"{key}.".startswith(f"{word}.") for word in words)}
    for key in keys:
        has_other = any(flag == keys[key] and other not in gone for other, flag in keys.items())
        if key in gone and not (has_other and now[key] is None):
            word = next(word for word in words if f"{key}.".startswith(f"{word}."))
            value = OmegaConf.to_container(now[key]) if OmegaConf.is_config(now[key]) else now[key]
            logger.warning("%s has no effect%s: %s= comes after it and makes %s %s; give one of the two", keys[key],
                           " on one of its keys" if has_other else "", word, key, shown(value))
