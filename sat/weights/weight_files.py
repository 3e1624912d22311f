"""The files of a Hugging Face folder that hold its weights: one or shards, safetensors or torch's, plain or a variant.

Names are STEM[.VARIANT][-00001-of-00002][.VARIANT].KIND and STEM[.VARIANT].KIND.index[.VARIANT].json; a variant is such
as fp16. Plain files come before variants, and safetensors before torch's.
"""
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ValidationError

from common.errors import CheckpointError, DataError
from common.listing import listed
from common.text import read_text
from weights.checkpoint import SUFFIXES

logger = logging.getLogger(__name__)

DIFFUSERS = ("diffusion_pytorch_model",)  # stems of the names in transformer/ and vae/
TRANSFORMERS = ("model", "pytorch_model")  # and in text_encoder/
VARIANTS = ("", "fp32", "bf16", "fp16")  # the most exact first
KINDS = ("safetensors", "bin")
ASIDE = (".lora", "pytorch_lora_weights", "optimizer", "scheduler", "training_args", "random_states", "tf_model",
         "adapter_model")


class ShardIndex(BaseModel, strict=True):
    """An index file: the shard of each tensor."""

    weight_map: dict[str, str]


@dataclass
class WeightSet:
    """Files that hold the same weights: a single file, an index, shards by number, and how many there are to be."""

    single: Path | None = None
    index: Path | None = None
    shards: dict[int, Path] = field(default_factory=dict)
    count: int = 0


def find_weights(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Return the files with a folder's weights, whose names begin with one of `stems`, or the only file of weights.

    Raises CheckpointError if there are none, if several could be meant, or if shards are missing.
    """
    sets = _sets(folder, stems)
    if not sets:
        return [_only_file(folder, stems)]
    (variant, kind), chosen = min(sets.items(), key=lambda item: _rank(*item[0]))
    if variant:
        tied = sorted(other for other, _ in sets if other not in VARIANTS)
        if variant not in VARIANTS and len(set(tied)) > 1:
            raise CheckpointError(f"folder {folder} holds the variants {listed(tied)} and no plain weights; leave one")
        logger.info("%s holds variant %s of the weights", folder, variant)
    return _files(folder, chosen)


def has_weights(folder: Path, stems: Sequence[str]) -> bool:
    """Return True if a folder has files whose names are those of weights, whole or not."""
    return bool(_sets(folder, stems))


def has_shards(folder: Path, stems: Sequence[str]) -> bool:
    """Return True if a folder has files whose names are those of shards, or of their index."""
    return any(found.shards or found.index for found in _sets(folder, stems).values())


def _rank(variant: str, kind: str) -> tuple:
    known = VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS)
    return bool(variant), KINDS.index(kind), known, variant


def _sets(folder: Path, stems: Sequence[str]) -> dict[tuple[str, str], WeightSet]:
    stem, kinds = "|".join(map(re.escape, stems)), "|".join(KINDS)
    weights = re.compile(rf"(?:{stem})(?:\.(\w+))?(?:-(\d+)-of-(\d+))?(?:\.(\w+))?\.({kinds})")
    index = re.compile(rf"(?:{stem})(?:\.(\w+))?\.({kinds})\.index(?:\.(\w+))?\.json")
    sets: dict[tuple[str, str], WeightSet] = defaultdict(WeightSet)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := weights.fullmatch(file.name):
            one, number, count, other, kind = match.groups()
            found = sets[one or other or "", kind]
            if number is None:
                found.single = file
            else:
                found.shards[int(number)], found.count = file, int(count)
        elif match := index.fullmatch(file.name):
            sets[match[1] or match[3] or "", match[2]].index = file
    return dict(sets)


def _files(folder: Path, chosen: WeightSet) -> list[Path]:
    if chosen.single is not None and (chosen.index is not None or chosen.shards):
        other = chosen.index or chosen.shards[min(chosen.shards)]
        raise CheckpointError(f"folder {folder} holds weights twice, as {chosen.single.name} and as shards "
                              f"({other.name}); remove those that are not meant")
    if chosen.single is not None:
        return [chosen.single]
    if chosen.index is not None:
        return _indexed(folder, chosen.index)
    missing = sorted(set(range(1, chosen.count + 1)) - set(chosen.shards))
    if missing or len(chosen.shards) != chosen.count:
        raise CheckpointError(f"{folder} lacks {listed(f'shard {number} of {chosen.count}' for number in missing)}; "
                              "fetch it again")
    logger.info("%s has no index; its %d shards are read", folder, chosen.count)
    return [chosen.shards[number] for number in sorted(chosen.shards)]


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(ShardIndex.model_validate_json(read_text(index)).weight_map.values()))
    except (ValidationError, DataError) as error:
        raise CheckpointError(f"{index} is not an index of shards; fetch it again") from error
    strange = [name for name in names if Path(name).name != name or "\0" in name]
    if strange or not names:
        raise CheckpointError(f"{index} names {listed(map(repr, strange)) or 'no shards'}; an index names files beside "
                              "it; fetch it again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {listed(missing)}, which its index names; fetch it again")
    return [folder / name for name in names]


def _only_file(folder: Path, stems: Sequence[str]) -> Path:
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()
             and not any(word in file.name for word in ASIDE)] if folder.is_dir() else []
    if len(files) == 1:
        logger.info("%s holds the weights", files[0])
        return files[0]
    if files:
        raise CheckpointError(f"folder {folder} holds several files of weights ({listed(f.name for f in files)}); "
                              f"leave one, or name it {stems[0]}.safetensors")
    raise CheckpointError(f"folder {folder} has no weights ({stems[0]}.safetensors or its shards); fetch it again")
