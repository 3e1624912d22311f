"""3D convolution with fewer multiplications, along time by Lavin and Gray 2016: half by F(4, 3), four frames from six.

Equal to the plain convolution up to rounding. F(2, 3), two frames from four with two thirds of the multiplications, is
for what is left, and for bfloat16: F(4, 3) weighs what was rounded by up to 8. A video's first frame, before which it
stands still, takes one product in place of three. Only the time axis is transformed, by sums of frames; height and
width use torch's 2D convolution. Large frames are computed strip by strip, so that the intermediate results of four
frames, nine tensors of a frame's size, stay small.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.cpu_operations import convolution, product_dtype
from common.measured import fastest, once, remembered
from common.tensors import recorded

CLEAR_GAIN = 1.1  # of the plain convolution in bfloat16
LEAST_PRODUCTS = 2**30  # multiplications of the plain convolution from which it pays
STRIP_VALUES, STRIP_ROWS = 2**19, 16  # elements of a strip (2 MB), and rows enough that two more cost little
# Transform of six consecutive frames, at points 0, 1, -1, 2, -2 and infinity.
FRAMES = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
          (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))


class Way(NamedTuple):
    """A way to compute `frames` frames: what makes its kernels from the three in time, and what computes some rows."""

    frames: int
    kernels: Callable[[Tensor, Tensor, Tensor], list[Tensor]]
    compute: Callable[[Sequence[Tensor], range, Sequence[Tensor], Tensor | None, Tensor], None]


def pays(x: Tensor, weight: Tensor, leading: bool) -> bool:
    """Return True if `convolve` is usable and faster than the plain convolution.

    It takes many small steps and transforms the whole kernel at every call, so it pays for large inputs only.
    """
    frames, height, width = x.shape[2:]
    places, dtype = len(x) * frames * height * width, _inner_dtype(x)
    return (dtype in GROUPS and not recorded() and weight.shape[2:] == (3, 3, 3)
            and min(weight.shape[:2]) >= 32 and (leading or frames > 1) and places >= 8 * len(weight)
            and places * weight.numel() >= LEAST_PRODUCTS
            and (dtype == torch.float32 or x.device.type == "cpu" and pays_in_bfloat16()))


def _inner_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that sums of frames and products are computed in."""
    return product_dtype(x.dtype) if x.device.type == "cpu" else x.dtype


@once
def pays_in_bfloat16() -> bool:
    """Return True if `convolve` beats the plain convolution on this processor, which has instructions for bfloat16.

    It is measured once, and remembered. The faster the products are, the less it saves; where both take about the same
    time, it holds less memory. A chunk has up to eight frames, for which the kernel is transformed once.
    """
    weight = torch.ones(256, 256, 3, 3, 3).bfloat16()
    x = torch.ones(1, 8, 64, 64, 256).bfloat16().movedim(-1, 1)  # two frames before six; channels last in memory
    ways = {"winograd": lambda: convolve(x[:, :, :2], x[:, :, 2:], weight, None, leading=False)[0],
            "plain": lambda: convolution(x, weight, None, (0, 1, 1))}
    with torch.no_grad():
        what = "bfloat16 convolutions of 256 channels over six frames"
        return remembered(what, lambda: fastest(ways, CLEAR_GAIN)) == "winograd"


def convolve(front: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, leading: bool, overwrites: bool = False
             ) -> tuple[Tensor, Tensor]:
    """Convolve x (B, C, T, H, W), preceded by frames `front` (B, C, 2, H, W), with `weight` (O, C, 3, 3, 3).

    Returns (B, O, T, H, W), with channels last in memory, and the last two frames of the input. Height and width are
    padded by zeros. If x opens the video (`leading`), `front` must be its first frame, twice. `overwrites` allows the
    result to take x's memory, which it does if O is C.
    """
    overwrites = overwrites and len(weight) == x.shape[1]
    out = x if overwrites else x.new_empty(len(x), *x.shape[2:], len(weight)).movedim(-1, 1)
    dtype = _inner_dtype(x)
    front, bias = front.to(dtype), None if bias is None else bias.to(dtype)
    for way, starts in _ways(x.shape[2], dtype, leading):
        kernels = way.kernels(*(kernel.to(dtype, copy=True, memory_format=torch.channels_last)
                                for kernel in weight.unbind(2)))
        for start in starts:
            group = slice(start, start + way.frames)
            ahead = x[:, :, group].to(dtype, copy=overwrites)
            frames = (*front.unbind(2), *ahead.unbind(2))
            front = ahead[:, :, -2:] if way.frames > 1 else torch.stack(frames[-2:], dim=2)  # before x is written to
            for rows in _strips(x, dtype):
                way.compute(frames, rows, kernels, bias, out[:, :, group, rows.start:rows.stop])
    return out, front.to(x.dtype)


def _ways(frames: int, dtype: torch.dtype, leading: bool) -> Iterator[tuple[Way, range]]:
    """Yield the ways that a chunk's frames take, in their order, each with the first frames of its groups."""
    done = 0
    for way in [STANDING] * leading + GROUPS[dtype]:
        stop = 1 if way is STANDING else frames - (frames - done) % way.frames
        if stop > done:  # each way transforms the kernel
            yield way, range(done, stop, way.frames)
        done = stop


def _kernels_of_four(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernels (O, C, 3, 3) of F(4, 3) from a kernel's three in time, at points 0, 1, -1, 2, -2, infinity."""
    one, two = (first + last).mul_(-1 / 6), torch.add(first / 4, last).mul_(1 / 6)
    return [first / 4, torch.sub(one, middle, alpha=1 / 6), torch.add(one, middle, alpha=1 / 6),
            torch.add(two, middle, alpha=1 / 12), torch.sub(two, middle, alpha=1 / 12), last]


def _kernels_of_two(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernels (O, C, 3, 3) of F(2, 3) at points 0, 1, -1 and infinity, summed in float32."""
    outer, middle = (first.float() + last).mul_(0.5), middle.float() * 0.5
    return [first, (outer + middle).to(last.dtype), outer.sub_(middle).to(last.dtype), last]


def _kernel_of_one(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernel (O, C, 3, 3, 3) itself."""
    return [torch.stack((first, middle, last), dim=2)]


def _kernel_of_standing(first: Tensor, middle: Tensor, last: Tensor) -> list[Tensor]:
    """Return the kernel (O, C, 3, 3) for three equal frames, summed in float32."""
    return [(first.float() + middle + last).to(last.dtype)]


def _strips(x: Tensor, dtype: torch.dtype) -> list[range]:
    """Return the rows of each strip of x's frames, x (B, C, T, H, W)."""
    batch, channels, _, height, width = x.shape
    values = STRIP_VALUES if dtype == torch.float32 else 8 * STRIP_VALUES  # fewer results at a time, of half the size
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
    around, inside = _with_neighbours(rows, frames[0].shape[2])
    first, second, third, fourth = (frame[:, :, around] for frame in frames)

    def product(point: int, total: Tensor) -> Tensor:
        return convolution(total, kernels[point], bias if point == 1 else None, (1, 1))[:, :, inside]

    one = product(1, second + third)  # two products at a time are held
    torch.add(product(0, first - third), one, out=out[:, :, 0])
    minus_one = product(2, third - second)
    out[:, :, 0].add_(minus_one)
    one.sub_(minus_one)
    del minus_one
    torch.sub(one, product(3, second - fourth), out=out[:, :, 1])


def _one_frame(frames: Sequence[Tensor], rows: range, kernels: Sequence[Tensor], bias: Tensor | None, out: Tensor
               ) -> None:
    """Compute these rows of one output frame from three frames (B, C, H, W), into `out` (B, O, 1, rows, W)."""
    around, inside = _with_neighbours(rows, frames[0].shape[2])
    three = torch.stack([frame[:, :, around] for frame in frames], dim=2)
    out.copy_(convolution(three, kernels[0], bias, (0, 1, 1))[:, :, :, inside])


def _standing_frame(frames: Sequence[Tensor], rows: range, kernels: Sequence[Tensor], bias: Tensor | None, out: Tensor
                    ) -> None:
    """Compute these rows of one output frame from three equal frames (B, C, H, W), into `out` (B, O, 1, rows, W)."""
    around, inside = _with_neighbours(rows, frames[0].shape[2])
    out[:, :, 0] = convolution(frames[-1][:, :, around], kernels[0], bias, (1, 1))[:, :, inside]


def _with_neighbours(rows: range, height: int) -> tuple[slice, slice]:
    """Return the rows with one more above and below, where a frame has them, and where the rows are among these."""
    top = max(rows.start - 1, 0)
    return slice(top, min(rows.stop + 1, height)), slice(rows.start - top, rows.stop - top)


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


STANDING = Way(1, _kernel_of_standing, _standing_frame)  # the video's first frame, before which it stands still
FOUR, TWO = Way(4, _kernels_of_four, _four_frames), Way(2, _kernels_of_two, _two_frames)
ONE = Way(1, _kernel_of_one, _one_frame)
GROUPS = {torch.float32: [FOUR, TWO, ONE], torch.bfloat16: [TWO, ONE]}
