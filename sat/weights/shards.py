"""Reading (memory-mapped) and writing (one tensor at a time) of safetensors folders as diffusers arranges them.

A folder has one file, or shards with an index that maps tensors to shards. A file is a little-endian length, a JSON
header with every tensor's type, shape and offsets, and the tensors' bytes.
"""
import json
import struct
from collections.abc import Container, Iterable, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from common.errors import CheckpointError
from common.files import whole_file
from common.listing import listed
from weights.checkpoint import read_state_dict
from weights.weight_files import DIFFUSERS

STEM = DIFFUSERS[0]
INDEX = f"{STEM}.safetensors.index.json"
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def read_shards(files: Iterable[Path], names: Container[str] | None = None) -> dict[str, Tensor]:
    """Read the tensors of several files into one state dict, memory-mapped; only those in `names` if given.

    Checksums are not compared. Raises CheckpointError for a damaged file, and for a tensor that is in two.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        state = read_state_dict(file, names, verify=False)
        twice = tensors.keys() & state.keys()
        if twice:
            raise CheckpointError(f"{file} holds tensors that other shards beside it hold, too ({listed(sorted(twice))}"
                                  "); fetch the folder again")
        tensors |= state
    return tensors


def write_tensors(folder: Path, planned: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]],
                  shard_bytes: int) -> None:
    """Write `tensors`, in the order of `planned`, which has tensors of their types and shapes (meta tensors suffice).

    Only one tensor is held at a time. A shard exceeds `shard_bytes` only if a single tensor does. Every file is written
    atomically, the index last. Raises ValueError for a tensor that differs from `planned`.
    """
    shards = _divide(planned, shard_bytes)
    if len(shards) == 1:
        names = [f"{STEM}.safetensors"]
    else:
        names = [f"{STEM}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    coming = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with whole_file(folder / name) as file, open(file, "wb") as stream:
            stream.write(_header({key: planned[key] for key in shard}))
            for expected, (key, tensor) in zip(shard, islice(coming, len(shard)), strict=True):
                if (key, tensor.shape, tensor.dtype) != (expected, planned[expected].shape, planned[expected].dtype):
                    raise ValueError(f"{key} does not match the planned {expected} in name, shape or type")
                stream.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(_bytes, planned.values()))},
                 "weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard}}
        with whole_file(folder / INDEX) as file:
            file.write_text(json.dumps(index, indent=2), encoding="utf-8")


def _divide(planned: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key, tensor in planned.items():
        if _bytes(tensor) > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= _bytes(tensor)
    return shards


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in tensors.items():
        start, end = end, end + _bytes(tensor)
        header[key] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that tensors start at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
