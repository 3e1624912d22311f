"""Arithmetic and memory traffic of code, and the seconds that they take on a device whose rates were measured."""
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial

import torch
from torch import Tensor, nn

from common.cpu_operations import convolution, linear, product_dtype
from common.measured import remembered
from network.attention import attention

MEASURED_SECONDS = 0.2  # for each rate: the first tenth of a second can be ten times slower than the rest
CACHED = 2 ** 22  # bytes


@dataclass(frozen=True)
class Work:
    """Floating-point operations of code by kind, bytes that its other kernels read and write, and its kernel calls.

    `cached` are the bytes of kernels that touch so few that these stay in the processor's cache.
    """

    products: float = 0.0
    attention: float = 0.0
    convolutions: float = 0.0
    cached: float = 0.0
    bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(self._all(), other._all(), strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * a for a in self._all()))

    def _all(self) -> tuple[float, ...]:
        return self.products, self.attention, self.convolutions, self.cached, self.bytes, self.calls

    @property
    def flops(self) -> float:
        """The floating-point operations of all kinds."""
        return self.products + self.attention + self.convolutions


@dataclass(frozen=True)
class Rates:
    """Operations of each kind and bytes that a device does in a second, and the seconds that a kernel call costs."""

    products: float
    attention: float
    convolutions: float
    cached: float
    bytes: float
    call: float

    def seconds(self, work: Work) -> float:
        """Return the seconds that the work takes."""
        return (work.products / self.products + work.attention / self.attention
                + work.convolutions / self.convolutions + work.cached / self.cached + work.bytes / self.bytes
                + work.calls * self.call)

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> "Rates":
        """Return the rates of a device in a dtype, which are measured once and remembered."""
        name = f"{product_dtype(dtype)} on cpu"
        if device.type != "cpu":
            name = torch.get_device_module(device).get_device_name(device)
        kinds = ", ".join(each.name for each in fields(cls))  # part of the name: other versions measure other rates
        found = remembered(f"rates of {kinds} in {dtype} by {name}", lambda: asdict(cls.measured(device, dtype)))
        return cls(**found)

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype, scale: int | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> "Rates":
        """Measure the rates of a device; `scale` multiplies the sizes of a processor, which take about a second."""
        spent = partial(_seconds, device=device, clock=clock)
        scale = scale or (1 if device.type == "cpu" else 8)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        generator = torch.Generator().manual_seed(0)  # its own, so that measuring does not change what a run draws
        n, tokens = 512 * scale, 512 * scale
        x, matrix = drawn(n, n), drawn(n, n)
        q = drawn(1, 8, tokens, 64)
        video, kernel = drawn(1, 64 * scale, 3, 32, 32), drawn(64 * scale, 64 * scale, 3, 3, 3)
        many, some = drawn(2 ** 24), drawn(CACHED // 4 // x.element_size())
        few = drawn(512, 64)
        with torch.random.fork_rng(devices=[]):
            layers = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.SiLU()).to(x)
        with torch.no_grad():
            return cls(
                products=2 * n ** 3 / spent(lambda: linear(x, matrix, None)),
                attention=4 * q.numel() * tokens / spent(lambda: attention(q, q, q)),
                convolutions=2 * kernel.numel() * 32 * 32 / spent(lambda: convolution(video, kernel, None, (0, 1, 1))),
                cached=2 * some.nbytes / spent(lambda: some + 1),
                bytes=2 * many.nbytes / spent(lambda: many.add_(1)),
                call=spent(lambda: layers(few)) / len(layers))


def _seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Return the least seconds of those runs that MEASURED_SECONDS allow, after a first one."""
    least, end = float("inf"), 0.0
    while least == float("inf") or time.perf_counter() < end:
        begin = clock()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        if end:
            least = min(least, clock() - begin)
        end = end or time.perf_counter() + MEASURED_SECONDS
    return least
