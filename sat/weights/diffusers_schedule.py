"""The noise schedule that a diffusers pipeline folder was saved with, beside the one of a configuration."""
import json
from collections.abc import Mapping
from pathlib import Path

from common.errors import DataError
from common.text import read_text

# Keys of diffusers' schedulers, and the parameters of a discretization that mean the same.
KEYS = {"snr_shift_scale": "shift_scale", "timestep_spacing": "spacing"}


def schedule_doubts(path: str | Path, model: Mapping) -> list[str]:
    """Return clauses on where a folder's scheduler differs from a `model` section's sampler; none for other paths.

    Only what the section's discretization states is compared.
    """
    file = Path(path) / "scheduler" / "scheduler_config.json"
    try:
        theirs = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError, DataError):
        return []
    sampler = (model.get("sampler_config") or {}).get("params") or {}
    ours = (sampler.get("discretization_config") or {}).get("params") or {}
    return [f"{file} has {key} {theirs[key]}, and discretization_config of the sampler {name} {ours[name]}"
            for key, name in KEYS.items()
            if isinstance(theirs, Mapping) and key in theirs and name in ours and theirs[key] != ours[name]]
