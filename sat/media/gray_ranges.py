"""The range of gray pictures with more than 8 bits: which value is black and which is white."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import DataError
from common.listing import Remarks

WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of one channel of more than 8 bits
REMARK_RANGE = "whose range of values had to be taken from the values"
_WHITES = (255.0, 4095.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)  # the highest integers of 8, 12, 16, 31 and 32 bits
_DARKEST, _DARKEST_OTHER = 16, 4  # inverse shares of the usual and of another white that the brightest value must reach
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


@dataclass(frozen=True)
class Samples:
    """The format of a file's values, as its tags say."""

    bits: int = 16
    unsigned: bool = True
    white_is_zero: bool = False

    @classmethod
    def of(cls, picture: Image.Image) -> Samples:
        tags = getattr(picture, "tag_v2", {})
        return cls(tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 1,
                   tags.get(_PHOTOMETRIC) == 0)


def gray_in_range(values: np.ndarray, samples: Samples, path: str | Path, remarks: Remarks) -> np.ndarray:
    """Return values (H, W) of any range as float32 in [0, 1], with 1 for white.

    White is 1 for floats, and the highest value of 12 and 16 bits, if the brightest value is above 1/16 of that. Other
    pictures have the next higher of the usual whites, if their brightest value is above 1/4 of it; otherwise their
    darkest and brightest values are black and white. That is remarked. Raises DataError if a value is not finite.
    """
    if values.dtype == np.int32 and samples.bits == 32 and samples.unsigned:
        values = values.view(np.uint32)  # Pillow has no mode for them
    if not np.isfinite(values).all():
        raise DataError(f"image {path} holds values that are not finite: save it without NaN and infinity")
    low, high = float(values.min()), float(values.max())
    usual = _usual_white(values, samples)
    black, white = _black_and_white(low, high, usual)
    if (black, white) != (0, usual):
        remarks.add(REMARK_RANGE, path, f"from {low:g} to {high:g}: {black:g} is black, {white:g} is white")
    exact = values.astype(np.float64) if white > 2**24 else values.astype(np.float32)
    unit = np.clip((exact - black) / (white - black), 0, 1)
    return (1 - unit if samples.white_is_zero else unit).astype(np.float32)


def _usual_white(values: np.ndarray, samples: Samples) -> float | None:
    """Return the value that is white by convention; None for 32-bit integers, which have no convention."""
    if values.dtype.kind == "f":
        return 1.0
    return 2.0**samples.bits - 1 if samples.bits <= 16 else None


def _black_and_white(low: float, high: float, usual: float | None) -> tuple[float, float]:
    if high == low == 0:
        return 0.0, usual or 1.0
    slack = 1 / 255 if usual == 1 else 0.0  # floats may overshoot by rounding
    if low >= -slack and usual and high <= usual + slack and high * _DARKEST >= usual:
        return 0.0, usual
    others = [white for white in _WHITES if white >= high]
    if low >= 0 and others and high * _DARKEST_OTHER >= others[0]:
        return 0.0, others[0]
    return (min(low, 0.0), high) if high > 0 else (low, 0.0)
