"""3D convolution with fewer multiplications, along time by Lavin and Gray 2016: half by F(4, 3), four frames from six.

Equal to the plain convolution up to rounding. In bfloat16 it is F(2, 3), two frames from four with two thirds of the
multiplications, whose sums are of two frames only: F(4, 3) weighs what was rounded by up to 8. Only the time axis is
transformed, by sums of frames; height and width use torch's 2D convolution. Large frames are computed strip by strip,
so that the intermediate results of four frames, nine tensors of a frame's size, stay small.
"""
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from common.cpu_operations import CPU_HAS_BFLOAT16, convolution
from common.measured import fastest, remembered
from common.tensors import recorded

GROUP = {torch.float32: 4, torch.bfloat16: 2}  # frames at a time
LEAST_PRODUCTS = 2**30  # multiplications of the plain convolution from which it pays
STRIP_VALUES, STRIP_ROWS = 2**19, 16  # elements of a strip (2 MB), and rows enough that two more cost little
# Transform of six consecutive frames, at points 0, 1, -1, 2, -2 and infinity.
FRAMES = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
          (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))


def pays(x: Tensor, weight: Tensor) -> bool:
    """Return True if `convolve` is usable and faster than the plain convolution.

    It takes many small steps and transforms the whole kernel at every call, so it pays for large inputs only.
    """
    frames, height, width = x.shape[2:]
    places = len(x) * frames * height * width
    return (x.dtype in GROUP and not recorded() and weight.shape[2:] == (3, 3, 3)
            and min(weight.shape[:2]) >= 32 and frames >= GROUP[x.dtype] and places >= 8 * len(weight)
            and places * weight.numel() >= LEAST_PRODUCTS
            and (x.dtype == torch.float32 or x.device.type == "cpu" and pays_in_bfloat16()))


@cache
def pays_in_bfloat16() -> bool:
    """Return True if `convolve` beats the plain convolution in bfloat16 on this processor; measured once, remembered.

    The faster the products are, the less it saves.
    """
    if not CPU_HAS_BFLOAT16:
        return False
    weight = torch.ones(256, 256, 3, 3, 3).bfloat16()
    x = torch.ones(1, 4, 64, 64, 256).bfloat16().movedim(-1, 1)  # channels last in memory
    ways = {"plain": lambda: convolution(x, weight, None, (0, 1, 1)),
            "winograd": lambda: convolve(x[:, :, :2], x[:, :, 2:], weight, None)}
    with torch.no_grad():
        return remembered("bfloat16 convolutions of 256 channels over time", lambda: fastest(ways)) == "winograd"


def convolve(front: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x (B, C, T, H, W), preceded by frames `front` (B, C, 2, H, W), with `weight` (O, C, 3, 3, 3).

    Returns (B, O, T, H, W), with channels last in memory. Height and width are padded by zeros.
    """
    frames = (*front.unbind(2), *x.unbind(2))
    out = x.new_empty(len(x), *x.shape[2:], len(weight)).movedim(-1, 1)
    group = GROUP[x.dtype]
    transform, compute = (_kernels_of_four, _four_frames) if group == 4 else (_kernels_of_two, _two_frames)
    kernels = transform(*(kernel.contiguous() for kernel in weight.unbind(2)))
    grouped = x.shape[2] // group * group
    for start in range(0, grouped, group):
        for rows in _strips(x):
            compute(frames[start:start + group + 2], rows, kernels, bias,
                    out[:, :, start:start + group, rows.start:rows.stop])
    if grouped < x.shape[2]:
        out[:, :, grouped:] = convolution(torch.stack(frames[grouped:], dim=2), weight, bias, (0, 1, 1))
    return out


def _kernels_of_four(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernels (O, C, 3, 3) of F(4, 3) from a kernel's three in time, at points 0, 1, -1, 2, -2, infinity."""
    one, two = (first + last).mul_(-1 / 6), torch.add(first / 4, last).mul_(1 / 6)
    return [first / 4, torch.sub(one, middle, alpha=1 / 6), torch.add(one, middle, alpha=1 / 6),
            torch.add(two, middle, alpha=1 / 12), torch.sub(two, middle, alpha=1 / 12), last]


def _kernels_of_two(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernels (O, C, 3, 3) of F(2, 3) at points 0, 1, -1 and infinity, summed in float32."""
    outer, middle = (first.float() + last).mul_(0.5), middle.float().mul_(0.5)
    return [first, (outer + middle).to(last.dtype), outer.sub_(middle).to(last.dtype), last]


def _strips(x: Tensor) -> list[range]:
    """Return the rows of each strip of x's frames, x (B, C, T, H, W)."""
    batch, channels, _, height, width = x.shape
    values = STRIP_VALUES if x.dtype == torch.float32 else 8 * STRIP_VALUES  # fewer results at a time, of half the size
    rows = max(values // (batch * channels * width), STRIP_ROWS)
    return [range(top, min(top + rows, height)) for top in range(0, height, rows)]


def _four_frames(frames: Sequence[Tensor], rows: range, kernels: Sequence[Tensor], bias: Tensor | None, out: Tensor
                 ) -> None:
    """Compute these rows of four output frames from six frames (B, C, H, W), into `out` (B, O, 4, rows, W)."""
    # The second point has weight 1 in every output, so its product can include the bias.
    zero, one, minus_one, two, minus_two, infinity = (
        convolution(_weighted(frames, weights, rows), kernels[i], bias if i == 1 else None, (0, 1))
        for i, weights in enumerate(FRAMES))
    even, odd = one + minus_one, one.sub_(minus_one)
    even_two, odd_two = two + minus_two, two.sub_(minus_two)
    torch.add(zero.add_(even), even_two, out=out[:, :, 0])
    torch.add(odd, odd_two, alpha=2, out=out[:, :, 1])
    torch.add(even, even_two, alpha=4, out=out[:, :, 2])
    torch.add(odd.add_(infinity), odd_two, alpha=8, out=out[:, :, 3])


def _two_frames(frames: Sequence[Tensor], rows: range, kernels: Sequence[Tensor], bias: Tensor | None, out: Tensor
                 ) -> None:
    """Compute these rows of two output frames from four frames (B, C, H, W), into `out` (B, O, 2, rows, W)."""
    top, stop = max(rows.start - 1, 0), min(rows.stop + 1, frames[0].shape[2])
    first, second, third, fourth = (frame[:, :, top:stop] for frame in frames)
    zero, one, minus_one, infinity = (
        convolution(total, kernel, bias if i == 1 else None, (1, 1))[:, :, rows.start - top:rows.stop - top]
        for i, (total, kernel) in enumerate(zip(
            (first - third, second + third, third - second, second - fourth), kernels, strict=True)))
    torch.add(zero.add_(one), minus_one, out=out[:, :, 0])
    torch.sub(one.sub_(minus_one), infinity, out=out[:, :, 1])


def _weighted(frames: Sequence[Tensor], weights: Sequence[float], rows: range) -> Tensor:
    """Return the weighted sum of the frames in these rows and one above and below, zero outside the frame."""
    batch, channels, height, width = frames[0].shape
    total = frames[0].new_zeros(batch, len(rows) + 2, width, channels).movedim(-1, 1)
    first, stop = max(rows.start - 1, 0), min(rows.stop + 1, height)
    inside = total[:, :, first - rows.start + 1:stop - rows.start + 1]
    for weight, frame in zip(weights, frames, strict=True):
        if weight:
            inside.add_(frame[:, :, first:stop], alpha=weight)
    return total
