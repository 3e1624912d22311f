"""Times whole sampling by full-size models with random weights: lossless, and in ways that change memory or the video.

    python -m benchmarks.full_size --compile regional --save       # 5B on an accelerator, in bfloat16
    python -m benchmarks.full_size --size 2b --ways "fp8 weights"   # beside the lossless one, which always runs
    python -m benchmarks.full_size --size tiny --device cpu          # the same in seconds

Needs requirements.txt alone, torchao for weights in 8 bits, and downloads nothing. Every way makes one video from the
same noise: seconds of all steps and of decoding, the memory that weights and either take on the device at most, and the
decoded video's PSNR against the lossless one, its range as the peak. Random weights say what a way costs and saves
in time and memory; of what it does to pictures they say little. Text embeddings are random too, and at hand, as when
the text encoder has left the device. --save keeps the table under docs/benchmarks/.
"""
import argparse
import gc
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "sat"), str(Path(__file__).resolve().parents[1])]

import torch
from torch import Tensor

from benchmarks.options import add_model, add_speed, resolve
from benchmarks.random_models import SIZES, Size, our_engine
from benchmarks.speed_measure import DTYPES, hardware, peak_memory, product_peak, save_note, synchronize, table
from common.console import run
from common.errors import ConfigError
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
    """How a video is made: changes of a size's `model` section, and of where and how weights are kept."""

    model: Mapping = field(default_factory=dict)
    sampler: str | None = None  # the name of its class
    guider: Mapping = field(default_factory=dict)
    steps: int | None = None
    quantize: str | None = None
    offload: str | None = None  # as `args.offload`

    def configure(self, model: Mapping) -> dict:
        target, params = model["sampler_config"]["target"], model["sampler_config"]["params"]
        if self.sampler:
            target = f"{target.rpartition('.')[0]}.{self.sampler}"
        guider = params["guider_config"] | {"params": params["guider_config"]["params"] | self.guider}
        return model | self.model | {"sampler_config": {"target": target, "params": params | {"guider_config": guider}}}

    def prepare(self, engine: DiffusionEngine, device: torch.device) -> None:
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
    "parts wait on the CPU": Way(offload="model"),
    "layers wait on the CPU": Way(offload="sequential"),
    "passes one by one": Way({"guidance_one_by_one": True}),
}
USUAL = ("TeaCache, 0.2", "first-block cache, 0.1", "UniPC, 12 steps", "fp8 products", "layers wait on the CPU")


@dataclass(frozen=True)
class Cost:
    """The most bytes on the device, weights and all."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Made:
    """A video (1, 3, frames, H, W), what sampling and decoding took, and what the last step told."""

    video: Tensor
    sampling: Cost
    decoding: Cost
    last: StepInfo


@torch.no_grad()
def make(way: Way, size: Size, device: torch.device, dtype: torch.dtype, faster: Mapping) -> Made:
    """`faster`: keys of the `model` section that leave the video as it is."""
    if way.offload:  # weights that come and go are new ones to the compiler
        faster = {key: value for key, value in faster.items() if not key.startswith("compile")}
    engine = our_engine(way.configure(size.model() | faster), device, dtype)
    way.prepare(engine, device)
    latents, _ = _sample(engine, size, 1)  # compiles, and makes what is made at first use
    if device.type != "cpu" or faster.get("compile_first_stage"):  # likewise; a CPU makes nothing at first use
        _decode(engine, size, latents)
    resting = 0 if way.offload else sum(tensor.nbytes for tensor in _stored(engine))
    sampling, (latents, last) = _cost(resting, device, lambda: _sample(engine, size, way.steps or size.steps))
    decoding, video = _cost(resting, device, lambda: _decode(engine, size, latents))
    return Made(video, sampling, decoding, last)


def _decode(engine: DiffusionEngine, size: Size, latents: Tensor) -> Tensor:
    return engine.decode_first_stage(latents[:, size.padding:].transpose(1, 2)).float().cpu()


def _sample(engine: DiffusionEngine, size: Size, steps: int) -> tuple[Tensor, StepInfo]:
    told: list[StepInfo] = []
    text, noise = (_drawn(shape, seed, engine) for shape, seed in (
        ((1, size.text_length, size.text_width), 2), ((1, *size.latent), 1)))
    latents = engine.sample({"crossattn": text}, {"crossattn": torch.zeros_like(text)}, 1, size.latent,
                            num_steps=steps, start=FromLevel(noise, 0), callback=told.append)
    return latents, told[-1]


def _drawn(shape: Sequence[int], seed: int, engine: DiffusionEngine) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(engine.device)


def _cost(resting: int, device: torch.device, call: Callable) -> tuple[Cost, Any]:
    """Of a call, beside `resting` bytes; and what it returns."""
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
    """Every tensor of the weights once, of those in 8 bits what they are made of."""
    parts = []
    for tensor in [*engine.parameters(), *engine.buffers()]:
        names = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        parts += [getattr(tensor, name) for name in names if getattr(tensor, name) is not None] or [tensor]
    return list({id(part): part for part in parts}.values())


def row(name: str, made: Made, lossless: Made) -> list[str]:
    skipped = made.last.skipped[0] if made.last.skipped else 0.0
    steps, decoding = made.sampling, made.decoding
    return [name, f"{steps.seconds:.3g} s", f"{steps.seconds / made.last.num_steps:.3g} s", f"{made.last.passes}",
            f"{100 * skipped:.0f} %", f"{decoding.seconds:.3g} s", f"{steps.memory / 2**30:.3g} GiB",
            f"{decoding.memory / 2**30:.3g} GiB", quality(made.video, lossless.video)]


def quality(video: Tensor, reference: Tensor) -> str:
    error = (video - reference).square().mean().item()
    if error == 0:
        return "equal"
    return f"{20 * math.log10((reference.max() - reference.min()).item()) - 10 * math.log10(error):.1f} dB"


def left_out(way: Way, device: torch.device) -> str | None:
    """Why a way cannot be measured here."""
    if way.quantize and find_spec("torchao") is None:
        return "torchao is not installed"
    if device.type == "cpu" and way.quantize == DYNAMIC:
        return "this CPU's products are not of 8 bits"
    return "weights are on the CPU in any case" if device.type == "cpu" and way.offload else None


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser, size="5b")
    add_speed(parser, compiled="regional")
    parser.add_argument("--compile-decoder", action="store_true", help="torch.compile the autoencoder")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=USUAL, help="beside the lossless one")
    options = parser.parse_args(argv)
    options.words = sys.argv[1:] if argv is None else list(argv)
    return options


def attention_of(kernel: str | None, size: Size, device: torch.device, dtype: torch.dtype) -> str:
    """By which kernel it ran."""
    if kernel == FASTEST:
        latents = torch.empty(1, *size.latent, device="meta")
        shape = attention_shape(size.model()["network_config"], latents, size.text_length)
        return f"attention by {fastest(shape, dtype, device)}, the fastest"
    return f"attention by {kernel or 'what torch chooses'}"


def heading(options: argparse.Namespace, size: Size, device: torch.device, dtype: torch.dtype) -> str:
    t, channels, h, w = size.latent
    return (f"# Whole sampling, {options.size}, {date.today()}\n\n"
            f"`python -m benchmarks.full_size {shlex.join(options.words)}`\n\n"
            f"{hardware(device)}; Python {platform.python_version()}, torch {torch.__version__}, {dtype}; matrix "
            f"product {product_peak(device, dtype) / 1e12:.3g} TFLOP/s; "
            f"{attention_of(options.attention, size, device, dtype)}. "
            f"Latents {t} x {channels} x {h} x {w}, {size.steps} steps of DDIM unless said, random weights.\n")


def main(argv: Sequence[str] | None = None) -> None:
    options = read_options(argv)
    device = resolve(options)
    size, dtype = SIZES[options.size].as_decoded(), DTYPES[options.dtype]
    faster = {"compile_model": {"whole": True, None: False}.get(options.compile, options.compile),
              "compile_first_stage": options.compile_decoder, "attention_kernel": options.attention}
    rows, lossless = [], None
    for name in dict.fromkeys([LOSSLESS, *options.ways]):
        reason = left_out(WAYS[name], device)
        if reason:
            sys.stdout.write(f"{name}: left out, {reason}\n")
            continue
        try:
            made = make(WAYS[name], size, device, dtype, faster)
        except ConfigError as error:  # an accelerator without 8-bit products; what was measured before is kept
            if lossless is None:
                raise
            sys.stdout.write(f"{name}: left out, {error}\n")
            continue
        lossless = lossless or made
        rows.append(row(name, made, lossless))
        sys.stdout.write(" | ".join(rows[-1]) + "\n")
        gc.collect()
    text = f"{heading(options, size, device, dtype)}\n{table(COLUMNS, rows)}\n"
    sys.stdout.write(f"\n{text}")
    if options.save:
        sys.stdout.write(f"{save_note(f'full_size_{options.size}', text)}\n")


if __name__ == "__main__":
    sys.exit(run(main))
