"""Choice of the attention kernel: torch's own choice, a named kernel, or the fastest on the device.

Torch's kernels differ by rounding alone; LOSSY ones by more, which is measured and reported. A CPU has one kernel
besides plain matrix products: the choice is for accelerators.
"""
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from math import prod

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend

from common.errors import ConfigError
from common.patches import parse_patch_size, patch_grid
from configuration.model import FASTEST
from configuration.yaml_files import require
from network.sage_attention import SageAttention

logger = logging.getLogger(__name__)

BUILT_IN: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
# FlashAttention 3 and 4 replace torch's own flash kernel where their packages are installed.
PACKAGED: Mapping[str, str] = {"flash3": "FA3", "flash4": "FA4"}
# Kernels of their own packages that round to fewer bits than the tensors have.
LOSSY: Mapping[str, Callable[[], AbstractContextManager]] = {"sage2": SageAttention}
COMPARED = ("flash", "cudnn", *PACKAGED, *LOSSY)  # candidates for the fastest; the earlier one wins a tie
# Largest difference, relative in norm, that counts as rounding; in bfloat16 it is about 0.003.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
ROUNDS = 5
Shape = tuple[int, int, int]  # heads, tokens, head dim


def attention_shape(network_config: Mapping, latents: torch.Tensor, text_length: int) -> Shape:
    """Return heads, tokens and head dim of the transformer's attention for latents (B, T, C, H, W)."""
    heads, head_dim = heads_of(network_config)
    video = patch_grid(latents, parse_patch_size(network_config["params"]["patch_size"]))
    return heads, text_length + prod(video), head_dim


def heads_of(network_config: Mapping) -> tuple[int, int]:
    """Return the number of attention heads and their dim."""
    params = require(network_config.get("params"), "model.network_config.params", "hidden_size", "num_attention_heads")
    return params["num_attention_heads"], params["hidden_size"] // params["num_attention_heads"]


@contextmanager
def use_attention_kernel(kernel: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Context manager in which attention of this shape is computed by `kernel`, one of KERNELS or FASTEST.

    Code that torch.compile makes inside it keeps that kernel. Raises ConfigError as `check_kernel` does.
    """
    check_kernel(kernel, shape[2], dtype, device)
    chosen = fastest(shape, dtype, device) if kernel == FASTEST else kernel
    if kernel in LOSSY:
        _report_error(kernel, shape, dtype, device)
    with nullcontext() if chosen is None else _only(chosen):
        yield


def check_kernel(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise ConfigError if a kernel, tried on few tokens, cannot compute heads of this dim."""
    reason = None if kernel == FASTEST else _failure(kernel, head_dim, dtype, device)
    if reason is not None:
        raise ConfigError(f"model.attention_kernel: {kernel} cannot compute attention of head dim {head_dim} in "
                          f"{str(dtype).removeprefix('torch.')} on {device.type} ({reason}); choose another kernel "
                          f"or {FASTEST}, or leave the key out")


@cache
def fastest(shape: Shape, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return the fastest kernel at this shape; None if only torch's own choice is left.

    Candidates are the usable kernels of COMPARED whose result equals that of the first one up to rounding.
    """
    usable = [kernel for kernel in COMPARED if _failure(kernel, shape[2], dtype, device) is None]
    exact = next((kernel for kernel in usable if kernel not in LOSSY), None)
    if len(usable) < 2 and exact == next(iter(usable), None):
        return exact
    q, k, v = _noise(shape, dtype, device)
    expected = _attended(exact, q, k, v)
    seconds: dict[str, float] = {}
    for kernel in usable:
        error = _relative(_attended(kernel, q, k, v), expected)
        if error <= TOLERANCE[dtype]:  # false for NaN, too
            seconds[kernel] = _median_seconds(partial(_attended, kernel, q, k, v), device)
        else:
            logger.info("attention by %s is not taken: it differs by %.2g, of %g that count as rounding", kernel, error,
                        TOLERANCE[dtype])
    timings = ", ".join(f"{kernel} {1000 * spent:.3g} ms" for kernel, spent in seconds.items())
    logger.info("attention of %d tokens: %s", shape[1], timings)
    return min(seconds, key=lambda kernel: seconds[kernel], default=None)


@cache
def _report_error(kernel: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    """Warn of the error of a lossy kernel that was named, once for each shape."""
    q, k, v = _noise(shape, dtype, device)
    error = _relative(_attended(kernel, q, k, v), _attended(None, q, k, v))
    rounding = TOLERANCE[dtype]
    logger.warning("model.attention_kernel: %s rounds to 8 bits; attention of noise with %d tokens differs by %.2g of "
                   "its norm, %s than rounding (%g)", kernel, shape[1], error,
                   "no more" if error <= rounding else "more", rounding)


def _noise(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    return [_drawn((1, *shape), seed, dtype, device) for seed in range(3)]


def _attended(kernel: str | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return attention by a kernel; None is torch's own choice."""
    with nullcontext() if kernel is None else _only(kernel):
        return F.scaled_dot_product_attention(q, k, v)


@cache
def _failure(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why a kernel cannot be used, or None if it can."""
    x = _drawn((1, 1, 128, head_dim), 0, dtype, device)
    try:
        with warnings.catch_warnings():  # torch warns about every kernel it rejects
            warnings.simplefilter("ignore")
            _attended(kernel, x, x, x)
    except Exception as error:  # old torch, missing package, or unsuitable device, for which packages raise anything
        return str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
    return None


def _drawn(shape: Sequence[int], seed: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return unit noise from its own generator, so that measuring does not change what a run draws."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@contextmanager
def _only(kernel: str) -> Iterator[None]:
    """Context manager in which torch computes attention by this kernel alone."""
    if kernel in LOSSY:
        with LOSSY[kernel]():
            yield
        return
    if kernel in PACKAGED:
        attention.activate_flash_attention_impl(PACKAGED[kernel])
    try:
        with attention.sdpa_kernel(BUILT_IN.get(kernel, SDPBackend.FLASH_ATTENTION)):
            yield
    finally:
        if kernel in PACKAGED:
            attention.restore_flash_attention_impl()


def _median_seconds(run: Callable[[], object], device: torch.device) -> float:
    spent: list[float] = []
    for _ in range(ROUNDS):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _relative(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference relative to that of `expected`."""
    difference, whole = (torch.linalg.vector_norm(x, dtype=torch.float32) for x in (out - expected, expected))
    return float(difference / whole)
