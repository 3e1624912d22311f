"""A diffusers pipeline folder: a whole model in the parts transformer/, vae/, text_encoder/ and tokenizer/."""
import json
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import CheckpointError, DataError
from common.text import read_text
from weights.weight_files import DIFFUSERS, has_weights

logger = logging.getLogger(__name__)

CLASSES = {"transformer": "CogVideoXTransformer3DModel", "vae": "AutoencoderKLCogVideoX"}


def is_pipeline(path: str | Path) -> bool:
    """Return True if a path is a pipeline folder.

    A subfolder counts as a part only if it has weight files, as checkpoint folders may have the same names.
    """
    folder = Path(path)
    return (folder / "model_index.json").is_file() or any(_is_part(folder / part) for part in CLASSES)


def part_folder(path: str | Path, part: str) -> Path | None:
    """Return the folder of a part, given a pipeline folder or that folder itself; None for other paths."""
    if is_pipeline(path):
        return Path(path) / part
    return Path(path) if _is_part(Path(path)) else None


def check_part(folder: Path, part: str) -> None:
    """Raise CheckpointError if a part's folder or config.json is missing, or is for another kind of model."""
    if not folder.is_dir():
        raise CheckpointError(f"diffusers folder {folder.parent} has no {part}/; fetch it again")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"diffusers folder {folder} has no config.json; fetch it again")
    found = _class_of(folder)
    if found is None:
        raise CheckpointError(f"{config} is not the configuration of a model; fetch it again")
    if found != CLASSES[part]:
        raise CheckpointError(f"diffusers folder {folder} holds a {found}; a {CLASSES[part]} is needed")


def use_pipeline_parts(model: MutableMapping, folder: str | Path) -> None:
    """Make first stage and text encoder of a `model` section use a pipeline folder, in place, where their own files
    do not exist."""
    owners = [("the autoencoder", "ckpt_path", _inside(model, "first_stage_config", "params"))]
    embedders = _inside(model, "conditioner_config", "params", "emb_models")
    owners += [("the text encoder", "model_dir", _inside(embedder, "params"))
               for embedder in (embedders if isinstance(embedders, Sequence) else ())]
    for what, key, params in owners:
        if isinstance(params, MutableMapping) and isinstance(params.get(key), str) and not Path(params[key]).exists():
            logger.info("%s is loaded from %s, because %s does not exist", what, folder, params[key])
            params[key] = str(folder)


def _inside(tree: Any, *keys: str) -> Any:
    """Return what stands below these keys; None where one is missing, or below something that is no mapping."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _is_part(folder: Path) -> bool:
    return has_weights(folder, DIFFUSERS) or _class_of(folder) in CLASSES.values()


def _class_of(folder: Path) -> str | None:
    """Return the class that a folder's config.json names; None if it names none."""
    try:
        return str(json.loads(read_text(folder / "config.json"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError):
        return None
