"""Time and memory of whole sampling runs by full-size models with random weights, lossless and in other ways.

    python -m benchmarks.full_size --compile regional --save       # 5B on an accelerator, in bfloat16
    python -m benchmarks.full_size --size 2b --ways "fp8 weights"   # the lossless run always comes first
    python -m benchmarks.full_size --size tiny --device cpu          # the same in seconds
    python -m benchmarks.full_size --device cpu                      # 2B from disk, see benchmarks.from_disk

On a CPU, without --size, benchmarks.from_disk makes its one video: CogVideoX-2B, 9 frames of 480 x 720, bfloat16, from
a folder with T5-XXL that it writes first (--folder; by default 13 GB in a temporary one), beside what --plan says.

Needs requirements.txt only (torchao for quantized weights) and downloads nothing. Every way makes one video from the
same noise. The table has the seconds of all steps and of decoding, the peak device memory of each including weights,
and the PSNR of the decoded video against the lossless one, whose value range is the peak. With random weights, time and
memory are meaningful and picture quality hardly is. Text embeddings are random and given, as when the text encoder is
no longer on the device. --save keeps the table under docs/benchmarks/.
"""
import argparse
import gc
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.decibels import psnr

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from torch import Tensor

from benchmarks.command_line import refuse_given
from benchmarks.markdown import table
from benchmarks.memory_measure import peak_memory
from benchmarks.options import add_model, add_speed, resolve
from benchmarks.random_models import SIZES, Size, our_engine
from benchmarks.speed_measure import DTYPES, hardware, product_peak, show, synchronize
from common.console import run
from common.errors import ConfigError
from configuration.settings import resolve_device
from diffusion_video import DiffusionEngine
from memory.offload import offload_engine
from memory.quantization import DYNAMIC, quantize_linears
from network.attention_kernels import FASTEST, attention_shape, fastest
from sgm.sampling import StepInfo
from sgm.sampling.start import FromLevel

COLUMNS = ("", "all steps", "a step", "passes", "skipped", "decoding", "memory, steps", "memory, decoding",
           "PSNR against lossless")
LOSSLESS = "lossless"


@dataclass(frozen=True)
class Way:
    """A way to make the video: changes to a size's `model` section, steps, and how and where weights are kept."""

    model: Mapping = field(default_factory=dict)
    sampler: str | None = None  # class name
    guider: Mapping = field(default_factory=dict)
    steps: int | None = None
    quantize: str | None = None
    offload: str | None = None  # as `args.offload`

    @property
    def compiles(self) -> bool:
        """False where weights are offloaded, which the compiler takes for new ones each time they arrive."""
        return self.offload is None

    def configure(self, model: Mapping) -> dict:
        """Return the `model` section with this way's changes."""
        target, params = model["sampler_config"]["target"], model["sampler_config"]["params"]
        if self.sampler:
            target = f"{target.rpartition('.')[0]}.{self.sampler}"
        guider = params["guider_config"] | {"params": params["guider_config"]["params"] | self.guider}
        return model | self.model | {"sampler_config": {"target": target, "params": params | {"guider_config": guider}}}

    def prepare(self, engine: DiffusionEngine, device: torch.device) -> None:
        """Quantize and offload the engine's weights."""
        if self.quantize:
            quantize_linears(engine.network, self.quantize)
        if self.offload:
            offload_engine(engine.cpu(), self.offload, device)


def cached(kind: str, threshold: float) -> Way:
    return Way({"step_cache_config": {"target": f"step_cache.{kind}", "params": {"threshold": threshold}}})


WAYS: Mapping[str, Way] = {
    LOSSLESS: Way(),
    "TeaCache, 0.1": cached("TeaCache", 0.1),
    "TeaCache, 0.2": cached("TeaCache", 0.2),
    "first-block cache, 0.1": cached("FirstBlockCache", 0.1),
    "guidance where sigma / alpha > 1": Way(guider={"sigma_lo": 1.0}),
    "UniPC, 12 steps": Way(sampler="UniPCSampler", steps=12),
    "fp8 products": Way(quantize=DYNAMIC),
    "fp8 weights": Way(quantize="fp8"),
    "int8 weights": Way(quantize="int8"),
    "parts offloaded": Way(offload="model"),
    "layers offloaded": Way(offload="sequential"),
    "branches one by one": Way({"guidance_one_by_one": True}),
}
USUAL = ("TeaCache, 0.2", "first-block cache, 0.1", "UniPC, 12 steps", "fp8 products", "layers offloaded")


@dataclass(frozen=True)
class Cost:
    """Seconds, and the peak of bytes on the device including weights (`memory`)."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Made:
    """A video (1, 3, frames, H, W), the cost of sampling and of decoding, and the StepInfo of the last step."""

    video: Tensor
    sampling: Cost
    decoding: Cost
    last: StepInfo


@torch.no_grad()
def make(way: Way, size: Size, device: torch.device, dtype: torch.dtype, faster: Mapping) -> Made:
    """Make a video in one way and measure it; `faster` are lossless changes of the `model` section."""
    if not way.compiles:
        faster = {key: value for key, value in faster.items() if not key.startswith("compile")}
    engine = our_engine(way.configure(size.model() | faster), device, dtype)
    way.prepare(engine, device)
    latents, _ = _sample(engine, size, 1)  # warms up: compilation, and whatever is made at first use
    if device.type != "cpu" or faster.get("compile_first_stage"):  # likewise; an uncompiled CPU run has no warm-up
        _decode(engine, size, latents)
    resting = 0 if way.offload else sum(tensor.nbytes for tensor in _stored(engine))
    sampling, (latents, last) = _cost(resting, device, lambda: _sample(engine, size, way.steps or size.steps))
    decoding, video = _cost(resting, device, lambda: _decode(engine, size, latents))
    return Made(video, sampling, decoding, last)


def _decode(engine: DiffusionEngine, size: Size, latents: Tensor) -> Tensor:
    return engine.decode_first_stage(latents[:, size.padding:].transpose(1, 2)).float().cpu()


def _sample(engine: DiffusionEngine, size: Size, steps: int) -> tuple[Tensor, StepInfo]:
    told: list[StepInfo] = []
    text = _drawn((1, size.text_length, size.text_width), 2, engine)
    noise = _drawn((1, *size.latent), 1, engine)
    latents = engine.sample({"crossattn": text}, {"crossattn": torch.zeros_like(text)}, 1, size.latent,
                            num_steps=steps, start=FromLevel(noise, 0), callback=told.append)
    return latents, told[-1]


def _drawn(shape: Sequence[int], seed: int, engine: DiffusionEngine) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(engine.device)


def _cost(resting: int, device: torch.device, call: Callable) -> tuple[Cost, Any]:
    """Return the cost of a call, with `resting` added to its memory, and the call's result."""
    told = []

    def timed() -> None:
        start = time.perf_counter()
        result = call()
        synchronize(device)
        told.append((time.perf_counter() - start, result))
    computing = peak_memory(timed, device)
    seconds, result = told[0]
    return Cost(seconds, resting + computing), result


def _stored(engine: DiffusionEngine) -> list[Tensor]:
    """Return every stored tensor of the engine once; of a quantized tensor, the tensors it is made of."""
    parts = []
    for tensor in [*engine.parameters(), *engine.buffers()]:
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        inner = [getattr(tensor, name) for name in names]
        parts += [part for part in inner if part is not None] or [tensor]
    return list({id(part): part for part in parts}.values())


def row(name: str, made: Made, lossless: Made) -> list[str]:
    """Return a row of the table, as COLUMNS."""
    skipped = made.last.skipped[0] if made.last.skipped else 0.0
    steps, decoding = made.sampling, made.decoding
    return [name, f"{steps.seconds:.3g} s", f"{steps.seconds / made.last.num_steps:.3g} s", f"{made.last.passes}",
            f"{100 * skipped:.0f} %", f"{decoding.seconds:.3g} s", f"{steps.memory / 2**30:.3g} GiB",
            f"{decoding.memory / 2**30:.3g} GiB", quality(made.video, lossless.video)]


def quality(video: Tensor, reference: Tensor) -> str:
    """Return the PSNR against a reference, whose value range is the peak."""
    error = (video - reference).square().mean().item()
    return f"{psnr(error, (reference.max() - reference.min()).item()):.1f} dB" if error else "equal"


def left_out(way: Way, device: torch.device) -> str | None:
    """Return why a way cannot be measured here, or None if it can."""
    if way.quantize and find_spec("torchao") is None:
        return "torchao is not installed"
    if device.type == "cpu" and way.quantize == DYNAMIC:
        return "8-bit matrix products need an accelerator"
    return "on a CPU there is nothing to offload" if device.type == "cpu" and way.offload else None


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, size=None)
    add_speed(parser, compiled="regional")
    parser.add_argument("--compile-decoder", action="store_true", help="torch.compile the autoencoder")
    parser.add_argument("--folder", type=Path, help="where benchmarks.from_disk has or writes its weights")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=USUAL,
                        help="ways to compare with the lossless one, which always runs")
    options = parser.parse_args(argv)
    options.words = sys.argv[1:] if argv is None else list(argv)
    if options.size is None and resolve_device(options.device).type == "cpu":
        refuse_given(parser, options, ("ways", "compile", "compile_decoder", "attention"),
                     "on a CPU without --size, where a video is made from disk")
    else:
        refuse_given(parser, options, ("folder",), "where the weights are not read from disk")
    return options


def attention_of(kernel: str | None, size: Size, device: torch.device, dtype: torch.dtype) -> str:
    """Return which kernel attention runs by, as text."""
    if kernel == FASTEST:
        latents = torch.empty(1, *size.latent, device="meta")
        shape = attention_shape(size.model()["network_config"], latents, size.text_length)
        return f"attention by {fastest(shape, dtype, device)}, the fastest"
    return f"attention by {kernel or 'the kernel torch chooses'}"


def heading(options: argparse.Namespace, size: Size, device: torch.device, dtype: torch.dtype) -> str:
    """Return the note's heading: command, hardware, versions and sizes."""
    t, channels, h, w = size.latent
    return (f"# Whole sampling, {options.size}, {date.today()}\n\n"
            f"`python -m benchmarks.full_size {shlex.join(options.words)}`\n\n"
            f"{hardware(device)}; Python {platform.python_version()}, torch {torch.__version__}, {dtype}; matrix "
            f"product {product_peak(device, dtype) / 1e12:.3g} TFLOP/s; "
            f"{attention_of(options.attention, size, device, dtype)}. "
            f"Latents {t} x {channels} x {h} x {w}, {size.steps} steps of DDIM unless noted, random weights.\n")


def make_from_disk(options: argparse.Namespace) -> None:
    """Run benchmarks.from_disk, which needs more than requirements.txt and is therefore imported here."""
    from benchmarks import from_disk
    kept = nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        place = options.folder or Path(folder) / "random_2b"
        dtype = ["--dtype", options.dtype] if options.dtype else []
        from_disk.main([str(place), *dtype, *(["--save"] if options.save else [])])


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    if options.size is None and resolve_device(options.device).type == "cpu":
        make_from_disk(options)
        return
    options.size = options.size or "5b"
    device = resolve(options)
    size, dtype = SIZES[options.size].as_decoded(), DTYPES[options.dtype]
    faster = {"compile_model": {"whole": True, None: False}.get(options.compile, options.compile),
              "compile_first_stage": options.compile_decoder, "attention_kernel": options.attention}
    rows, lossless = [], None
    for name in dict.fromkeys([LOSSLESS, *options.ways]):
        reason = left_out(WAYS[name], device)
        if reason:
            sys.stdout.write(f"{name}: skipped, {reason}\n")
            continue
        try:
            made = make(WAYS[name], size, device, dtype, faster)
        except ConfigError as error:  # for instance 8-bit products that the accelerator lacks: keep the other rows
            if lossless is None:
                raise
            sys.stdout.write(f"{name}: skipped, {error}\n")
            continue
        lossless = lossless or made
        compiled = any(value for key, value in faster.items() if key.startswith("compile"))
        rows.append(row(name if WAYS[name].compiles or not compiled else f"{name}, not compiled", made, lossless))
        sys.stdout.write(" | ".join(rows[-1]) + "\n")
        gc.collect()
    text = f"{heading(options, size, device, dtype)}\n{table(COLUMNS, rows)}\n"
    sys.stdout.write("\n")
    show(text, f"full_size_{options.size}", options.save)


if __name__ == "__main__":
    sys.exit(run(main))
