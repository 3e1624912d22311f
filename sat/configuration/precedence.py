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

    `before` has the values that the flags set, by key.
    """
    for key, flag in keys.items():
        word = next((word for word in words if f"{key}.".startswith(f"{word}.")), None)
        now = OmegaConf.select(config, key)
        if word is not None and now != before[key]:
            logger.warning("%s has no effect: %s= comes after it and makes %s %s; give one of the two", flag, word, key,
                           shown(OmegaConf.to_container(now) if OmegaConf.is_config(now) else now))
