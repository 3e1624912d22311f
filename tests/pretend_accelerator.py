"""A pretend accelerator, for machines without one: it computes on the CPU, but refuses what accelerators refuse.

    python tests/pretend_accelerator.py FOLDER      # samples with a folder's small models on both devices

An operation on tensors of both devices raises RuntimeError unless it copies between them. As on Apple's MPS, float64
and complex numbers raise TypeError, and so does an operation that torch's own list does not declare for MPS. The script
prints, for each way of sampling, the largest difference of a pixel between the devices, and what a stream for copies
did (`pretend_streams`). It needs its own process, because a device cannot be removed from torch.
"""
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import numpy as np
import torch
import torchgen
import yaml
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

import sample_video
from common.files import REPOSITORY
from memory import offload, prefetch
from memory.prefetch import CopyStream
from tests.pretend_streams import Streams

NAME = "pretend"
aten = torch.ops.aten
STREAMS = Streams()
REFUSED = (torch.float64, torch.complex32, torch.complex64, torch.complex128)
COPIES = (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default)

TILES = ("--vae-tiling", "--vae-tile-size", "3", "3", "--vae-tile-overlap", "1")
UNTIMED = ("model.sampler_config.params.discretization_config.target=sgm.discretizer.EDMDiscretization",
           "model.sampler_config.params.discretization_config.params=null")
CACHE = ("model.step_cache_config.target=step_cache.TeaCache", "model.step_cache_config.params.threshold=0.1")


@dataclass(frozen=True)
class Way:
    """A way of sampling: the small model, its command-line arguments, and those that give the same video on the CPU."""

    model: str
    words: Sequence[str] = ()
    same: Sequence[str] = ()


WAYS: Mapping[str, Way] = {
    "from text": Way("t2v"),
    "from an image": Way("i2v"),
    "a part at a time": Way("i2v", ("--offload", "model")),
    "a layer at a time": Way("i2v", ("--offload", "sequential")),
    "tiles": Way("t2v", TILES, TILES),
    "branches one by one": Way("t2v", ("model.guidance_one_by_one=true",)),
    "a schedule without timesteps": Way("t2v", UNTIMED, UNTIMED),
    "a step cache": Way("i2v", CACHE, CACHE),
    "the fastest attention": Way("t2v", ("model.attention_kernel=fastest",)),
    "pictures of the steps": Way("t2v", ("--save-denoised-every", "1")),
}


class There(Tensor):
    """A tensor on the pretend device; `number` is the CPU tensor that holds its elements."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, number: Tensor):
        if number.dtype in REFUSED:
            raise TypeError(f"{NAME} has no {number.dtype}: shape {tuple(number.shape)}")
        there = Tensor._make_wrapper_subclass(cls, number.shape, strides=number.stride(), dtype=number.dtype,
                                              storage_offset=number.storage_offset(), device=f"{NAME}:0")
        there.number = number
        return there

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """A mode in which tensors can be created on the device and modules moved to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __enter__(self):
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *raised):
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        return super().__exit__(*raised)


class Backend(_DummyBackendModule):
    """The backend module that torch asks about the device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def compute(func, args: Sequence, kwargs: Mapping):
    """Run an operation on the CPU and return its result on the device where it belongs."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    here = [x for x in tensors if not isinstance(x, There) and x.dim()]
    if there and here and func not in COPIES:
        raise RuntimeError(f"{func} has tensors on two devices: shapes {[tuple(x.shape) for x in there]} on {NAME}, "
                           f"{[tuple(x.shape) for x in here]} on the CPU")
    target = kwargs.get("device")
    goes = torch.device(target).type == NAME if target is not None else bool(there)
    if func is aten.copy_.default:
        goes = isinstance(args[0], There)
    if (goes or there) and not on_mps(func):
        raise TypeError(f"{NAME} has no {func}, because MPS has none")
    if target is not None and goes:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(x.number): x for x in there}
    out = func(*_here(args), **_here(kwargs))
    if goes or there:
        STREAMS.note(func, _on_device(args), _on_device(kwargs), out if goes else None)
    if not goes:
        return out

    def on_device(x):
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return tree_map(on_device, out)


@cache
def on_mps(func: torch._ops.OpOverload) -> bool:
    """Return True if torch declares an operation for MPS, or for every device, or makes it of others that it does."""
    name = func._schema.name.removeprefix("aten::") + (f".{func._overloadname}" if func._overloadname != "default"
                                                       else "")
    entry = _declared()[name]
    if "structured_delegate" in entry:
        entry = _declared()[entry["structured_delegate"]]
    keys = entry.get("dispatch", {"CompositeImplicitAutograd": ""})
    return any(key == "MPS" or key.startswith("Composite") for key in ", ".join(keys).split(", "))


@cache
def _declared() -> Mapping[str, Mapping]:
    """Return torch's list of its operations by name and overload, with the devices that each is made for."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {entry["func"].partition("(")[0]: entry for entry in entries}


def _here(tree):
    """Replace the tensors on the device by the CPU tensors that hold their elements."""
    return tree_map(lambda x: x.number if isinstance(x, There) else x, tree)


def _on_device(tree):
    """Return a tree with the CPU tensors of those on the device, and without others."""
    return tree_map(lambda x: x.number if isinstance(x, There) else None if isinstance(x, Tensor) else x, tree)


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _here(target).copy_(_here(source))
    return target


def set_up() -> torch.library.Library:
    """Make the device torch's accelerator, as long as the returned library is kept."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    inside = torch.library.Library("aten", "IMPL")  # operations that torch calls from within others
    inside.impl("empty_strided", lambda size, stride, dtype=None, **rest: There(
        torch.empty_strided(size, stride, dtype=dtype)), "PrivateUse1")
    inside.impl("empty.memory_format", lambda size, dtype=None, **rest: There(torch.empty(size, dtype=dtype)),
                "PrivateUse1")
    inside.impl("_copy_from", _copy, "PrivateUse1")
    offload.pinned = lambda data: data.clone()  # pinned memory needs a driver; nor is there anything to wait for
    offload.copy_stream = lambda device: CopyStream(device, STREAMS.copying)
    prefetch.computing = lambda device: STREAMS.computing
    torch.accelerator.synchronize = lambda device=None: None
    load = torch.load

    def load_here(*args, **kwargs):  # loads to the CPU; dispatching every operation would be slow
        with _disable_current_modes():
            return load(*args, **kwargs)
    torch.load = load_here
    return inside


def sampled(folder: Path, model: str, words: Sequence[str]) -> np.ndarray:
    """Sample a video with a small model; return the pixels of its contact sheet."""
    out = folder / "out" / "-".join((model, *words)).replace("/", "_")
    code = sample_video.main(["--base", str(folder / f"{model}.yaml"), str(REPOSITORY / "configs/inference.yaml"),
                              "--input-file", str(folder / f"{model}.txt"), "--output-dir", str(out),
                              "--num-frames", "9", *words])
    if code:
        raise SystemExit(f"{model} {words}: exit code {code}")
    (sheet,) = out.rglob("frames.png")
    return np.asarray(Image.open(sheet)).astype(int)


def _passes(run: Callable[[], object]) -> bool:
    try:
        run()
        return True
    except (RuntimeError, TypeError):
        return False


def main(folder: Path) -> None:
    """Sample in every way on both devices and print the differences as JSON."""
    kept = set_up()
    (folder / "t2v.txt").write_text("a red circle moves left\n")
    Image.new("RGB", (50, 40), (200, 30, 30)).save(folder / "red.png")
    (folder / "i2v.txt").write_text("a circle@@red.png\n")
    cpus = {key: sampled(folder, key[0], (*key[1], "args.device=cpu"))
            for key in {(way.model, way.same) for way in WAYS.values()}}
    told = {}
    for name, way in WAYS.items():
        with Device():
            found = sampled(folder, way.model, way.words)  # a run uses the accelerator by default
        told[name] = int(np.abs(found - cpus[way.model, way.same]).max())
    told |= {"races": STREAMS.races, "copies ahead": sum(stream == "copying" for stream, *_ in STREAMS.log)}
    with Device():
        ones = torch.ones(2, device=NAME)
        told |= {name: _passes(run) for name, run in {
            "devices meet": lambda: ones + torch.ones(2), "float64": lambda: ones.double(),
            "complex numbers": lambda: torch.complex(ones, ones),
            "a missing operation": lambda: torch.geqrf(ones[None]),
            "one that is there": lambda: ones.sin()}.items()}
    del kept
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
