"""Which of torch's kernels computes attention: torch's own choice, a named one, or the fastest on the device at hand.

Kernels differ by rounding alone. On a CPU there is one besides plain products, so that a choice is for accelerators.
"""
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from math import prod

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend

from common.errors import ConfigError
from common.patches import parse_patch_size, patch_grid
from configuration.model import FASTEST
from configuration.yaml_files import require

logger = logging.getLogger(__name__)

BUILT_IN: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
# FlashAttention 3 and 4 take the place of torch's own flash kernel, where their packages are installed.
PACKAGED: Mapping[str, str] = {"flash3": "FA3", "flash4": "FA4"}
COMPARED = ("flash", "cudnn", *PACKAGED)  # for the fastest; the first wins a draw
# Of the norm of the first's result, what another's may differ by: rounding. In bfloat16 it is about 0.003.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
ROUNDS = 5
Shape = tuple[int, int, int]  # heads, tokens, head dim


def attention_shape(network_config: Mapping, latents: torch.Tensor, text_length: int) -> Shape:
    """Of the transformer's attention, for latents (B, T, C, H, W)."""
    heads, head_dim = heads_of(network_config)
    video = patch_grid(latents, parse_patch_size(network_config["params"]["patch_size"]))
    return heads, text_length + prod(video), head_dim


def heads_of(network_config: Mapping) -> tuple[int, int]:
    """How many there are, and their dim."""
    params = require(network_config.get("params"), "model.network_config.params", "hidden_size", "num_attention_heads")
    return params["num_attention_heads"], params["hidden_size"] // params["num_attention_heads"]


@contextmanager
def attention_by(kernel: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """While entered, attention of this shape runs by `kernel`, one of KERNELS or FASTEST. What torch.compile makes
    meanwhile keeps to it. Raises ConfigError as `check_kernel`."""
    check_kernel(kernel, shape[2], dtype, device)
    chosen = fastest(shape, dtype, device) if kernel == FASTEST else kernel
    with nullcontext() if chosen is None else _only(chosen):
        yield


def check_kernel(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ConfigError where a kernel cannot compute such heads; tried on few tokens."""
    reason = None if kernel == FASTEST else _failure(kernel, head_dim, dtype, device)
    if reason is not None:
        raise ConfigError(f"model.attention_kernel: {kernel} does not compute attention of head dim {head_dim} in "
                          f"{str(dtype).removeprefix('torch.')} on {device.type} ({reason}); name another, "
                          f"{FASTEST}, or leave it out")


@cache
def fastest(shape: Shape, dtype: torch.dtype, device: torch.device) -> str | None:
    """Of the kernels that can, and that agree with the first of them up to rounding, the one that is fastest at this
    shape; None where only torch's own way is left."""
    usable = [kernel for kernel in COMPARED if _failure(kernel, shape[2], dtype, device) is None]
    if len(usable) < 2:
        return next(iter(usable), None)
    qkv = [_drawn((1, *shape), seed, dtype, device) for seed in range(3)]
    seconds, expected = {}, None
    for kernel in usable:
        with _only(kernel):
            out = F.scaled_dot_product_attention(*qkv)
            expected = out if expected is None else expected
            if _relative(out, expected) <= TOLERANCE[dtype]:  # not a number is no rounding either
                seconds[kernel] = _median_seconds(lambda: F.scaled_dot_product_attention(*qkv), device)
    told = ", ".join(f"{kernel} {1000 * spent:.3g} ms" for kernel, spent in seconds.items())
    logger.info("attention of %d tokens: %s", shape[1], told)
    return min(seconds, key=seconds.get, default=None)


@cache
def _failure(kernel: str, head_dim: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a kernel cannot be used; None if it can."""
    x = _drawn((1, 1, 128, head_dim), 0, dtype, device)
    try:
        with warnings.catch_warnings():  # torch warns of every kernel that it passes over
            warnings.simplefilter("ignore")
            with _only(kernel):
                F.scaled_dot_product_attention(x, x, x)
    except (AttributeError, ImportError, RuntimeError) as error:  # an older torch, a package, a device without it
        return str(error).partition("\n")[0].partition(". ")[0]
    return None


def _drawn(shape: Sequence[int], seed: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """By a generator of its own: what a run draws does not depend on whether it measured."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@contextmanager
def _only(kernel: str) -> Iterator[None]:
    if kernel in PACKAGED:
        attention.activate_flash_attention_impl(PACKAGED[kernel])
    try:
        with attention.sdpa_kernel(BUILT_IN.get(kernel, SDPBackend.FLASH_ATTENTION)):
            yield
    finally:
        if kernel in PACKAGED:
            attention.restore_flash_attention_impl()


def _median_seconds(run: Callable[[], object], device: torch.device) -> float:
    spent: Sequence[float] = []
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
    difference, whole = (torch.linalg.vector_norm(x, dtype=torch.float32) for x in (out - expected, expected))
    return float(difference / whole)
