"""Files of a LoRA: which file of a folder it is, and what the file says beside its tensors."""
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor

from common.errors import CheckpointError
from common.kinds import Size, SizeOrZero
from common.text import read_text
from weights.checkpoint import find_checkpoint, open_safetensors, read_checkpoint, unwrapped
from weights.formats import SAFETENSORS, format_of
from weights.lora_keys import is_lora

FILE = "pytorch_lora_weights.safetensors"
NAMES = (FILE, "pytorch_lora_weights.bin", "adapter_model.safetensors", "adapter_model.bin")
ADAPTER = "adapter_config.json"  # PEFT's, beside the file
CONFIG = "lora_adapter_metadata"  # PEFT's LoraConfig as JSON in a file's metadata, each key starting with PREFIX
PREFIX = "transformer."
BASE = "base_shapes"  # ours; diffusers ignores it
HEADER = "lora"
KOHYA_ALPHA = "ss_network_alpha"
LARGEST = 2 ** 48  # elements of a tensor whose shape is stated

Shapes = dict[str, list[SizeOrZero]]


def _not_zero(alpha: float) -> float:
    if alpha == 0:
        raise ValueError("alpha is 0, so that the LoRA would do nothing")
    return alpha


Alpha = Annotated[FiniteFloat, AfterValidator(_not_zero)]


class PeftConfig(BaseModel):
    """The keys of PEFT's LoraConfig that say how a LoRA's matrices are used."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    peft_type: str | None = None
    r: Size | None = None
    lora_alpha: Alpha | None = None
    rank_pattern: dict[str, Size] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    use_rslora: bool | None = None
    use_dora: bool | None = None
    lora_bias: bool | None = None
    init_lora_weights: bool | str | None = None
    layer_replication: list | None = None
    modules_to_save: list[str] | str | None = None


class Header(BaseModel):
    """The entry of a checkpoint of this project that describes its LoRA."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    lora_alpha: Alpha | None = None
    base_shapes: Shapes | None = None


@dataclass(frozen=True)
class Content:
    """A LoRA's file as it is: tensors by name, what has a LoRA's name and is none, and what is said beside them.

    `config` and `stated_in`: PEFT's settings and where they stand. `alpha`: a number for all of it, and where it
    stands. `base`: the shapes of the model it was trained for.
    """

    file: Path
    values: Mapping[str, Any]
    config: PeftConfig | None = None
    stated_in: str = ""
    alpha: tuple[float, str] | None = None
    base: Shapes | None = None


def read_content(path: str | Path) -> Content:
    """Read a LoRA's file, tensors memory-mapped. Raises CheckpointError if it is missing, damaged or badly written."""
    file = find_lora(path)
    content = read_checkpoint(file)
    header = _validated(Header, content.get(HEADER) or {}, file, HEADER) if HEADER in content else Header()
    values = {str(name): value for name, value in unwrapped(content).items()
              if isinstance(value, Tensor) or is_lora(str(name))}
    metadata = _metadata(file)
    config, stated_in = _peft_config(path, file, metadata)
    base = header.base_shapes
    if BASE in metadata:
        base = _validated(TypeAdapter(Shapes), _json(metadata[BASE], file, BASE), file, BASE)
    alpha = None if header.lora_alpha is None else (header.lora_alpha, "its checkpoint")
    if KOHYA_ALPHA in metadata:
        alpha = _number(metadata[KOHYA_ALPHA], file, KOHYA_ALPHA), f"its metadata {KOHYA_ALPHA}"
    return Content(file, values, config, stated_in, alpha, _checked(base, file))


def files_of(path: str | Path) -> list[Path]:
    """Return all files that a LoRA is read from."""
    file = find_lora(path)
    settings = _beside(path, file)
    return [file] if settings is None else [file, settings]


def find_lora(path: str | Path) -> Path:
    """Return a LoRA's file for the path of a file or folder. Raises CheckpointError if there is none, or several."""
    folder = Path(path)
    if not folder.exists():
        raise CheckpointError(f"LoRA {path} does not exist; give the path of its file or folder")
    if not folder.is_dir():
        return folder
    return next((folder / name for name in NAMES if (folder / name).is_file()), None) or find_checkpoint(path)


def meta_tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _metadata(file: Path) -> Mapping[str, str]:
    if format_of(file) != SAFETENSORS:
        return {}
    with open_safetensors(file) as opened:
        return opened.metadata() or {}


def _peft_config(path: str | Path, file: Path, metadata: Mapping[str, str]) -> tuple[PeftConfig | None, str]:
    """Return PEFT's settings and where they stand: beside the file, or in its metadata."""
    beside = _beside(path, file)
    if beside is not None:
        settings = _json(read_text(beside), beside, "")
        return _validated(PeftConfig, settings, beside, ""), ADAPTER
    if CONFIG not in metadata:
        return None, ""
    settings = _json(metadata[CONFIG], file, CONFIG)
    if not isinstance(settings, dict):
        raise CheckpointError(f"LoRA {file}: its metadata {CONFIG} is not a mapping; copy the file again")
    settings = {key.removeprefix(PREFIX): value for key, value in settings.items()}
    return _validated(PeftConfig, settings, file, CONFIG), f"its metadata {CONFIG}"


def _beside(path: str | Path, file: Path) -> Path | None:
    """Return the file of PEFT's settings that belongs to a LoRA's file, found for a path; None if there is none."""
    beside = file.parent / ADAPTER
    belongs = Path(path).is_dir() or file.stem.startswith("adapter_model")
    return beside if belongs and beside.is_file() else None


def _json(text: str, file: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        name = f"its metadata {where}" if where else "it"
        raise CheckpointError(f"LoRA {file}: {name} is not JSON; copy the file again") from error


def _validated(schema: Any, value: Any, file: Path, where: str) -> Any:
    """Return a value brought to a schema (a model or a TypeAdapter). Raises CheckpointError naming the first fault."""
    try:
        validate = schema.validate_python if isinstance(schema, TypeAdapter) else schema.model_validate
        return validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join([where, *map(str, fault["loc"])]).strip(".") or "its content"
        raise CheckpointError(f"LoRA {file}: {key[:120]} is {str(fault['input'])[:60]!r}; {fault['msg']}; correct it, "
                              "or copy the file again") from error


def _checked(shapes: Shapes | None, file: Path) -> Shapes | None:
    for name, shape in (shapes or {}).items():
        if prod(shape) > LARGEST or len(shape) > 8:
            raise CheckpointError(f"LoRA {file}: {BASE} gives {name[:120]} the shape {str(shape)[:60]}; copy the file "
                                  "again")
    return shapes or None


def _number(text: str, file: Path, where: str) -> float:
    """Return the number that kohya's metadata spells as text."""
    return _validated(TypeAdapter(FiniteFloat), text, file, where)
