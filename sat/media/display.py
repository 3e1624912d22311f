"""Decoded frames as players show them: upright, with square pixels, in the colours that the file means."""
from fractions import Fraction
from typing import Any

import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from media.containers import UnreadableClip

# Values that PyAV gives as numbers (AVColorSpace and so on of ffmpeg).
_UNTAGGED_MATRIX = 2
_HDR_CURVES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
_WIDE_GAMUTS = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)


def displayed_size(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Return height and width at which a frame is shown, whose pixels are `aspect` times as wide as high."""
    height, width = _squared(frame, aspect)
    return (width, height) if _turn(frame)[0] else (height, width)


def is_plain(frame: VideoFrame, aspect: Fraction) -> bool:
    """Return whether a frame is shown as it is stored, and any decoder gives its colours alike."""
    return (aspect == 1 and _turn(frame) == (False, False, False) and not _conversion(frame)
            and not _has_alpha(frame) and not frame.interlaced_frame)


class Display:
    """A conversion of a clip's frames to RGB, as they are shown."""

    def __init__(self, aspect: Fraction):
        """Take the shape of the clip's pixels, as in `displayed_size`."""
        self.aspect = aspect
        self._reformatter = VideoReformatter()  # kept, because it makes tables, for high dynamic range large ones

    def to_rgb(self, frame: VideoFrame) -> np.ndarray:
        """Convert a frame to (H, W, 3) of 8 bits: on white where transparent, high dynamic range reduced."""
        height, width = _squared(frame, self.aspect)
        layout = "rgba" if _has_alpha(frame) else "rgb24"
        pixels = self._reformatter.reformat(frame, width, height, layout, interpolation=Interpolation.BICUBIC,
                                            threads=1, **_conversion(frame)).to_ndarray()
        if layout == "rgba":
            opaque = pixels[..., 3:].astype(np.float32) / 255
            pixels = (pixels[..., :3] * opaque + 255 * (1 - opaque)).round().astype(np.uint8)
        swap, flip_rows, flip_columns = _turn(frame)
        pixels = pixels.swapaxes(0, 1) if swap else pixels
        return np.ascontiguousarray(pixels[::-1 if flip_rows else 1, ::-1 if flip_columns else 1])


def _squared(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Return height and width with square pixels: one side as stored, the other longer."""
    if aspect >= 1:
        return frame.height, max(1, round(frame.width * aspect))
    return max(1, round(frame.height / aspect)), frame.width


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether rows and columns are swapped for display, and then rows reversed, and columns reversed."""
    side_data: Any = frame.side_data
    try:
        matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), np.int32)
    except KeyError:
        return False, False, False
    a, b, _, c, d = matrix[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if b == c == 0 and a and d:
        return False, d < 0, a < 0
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    raise UnreadableClip("it is shown tilted, by less than a quarter turn: re-encode it")


def _has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _conversion(frame: VideoFrame) -> dict[str, int]:
    """Return what the conversion to RGB must be told beyond the frame's own tags."""
    told = {}
    is_yuv = not frame.format.is_rgb and len(frame.format.components) >= 3
    if is_yuv and frame.colorspace == _UNTAGGED_MATRIX and (frame.width >= 1280 or frame.height > 576):
        told["src_colorspace"] = int(Colorspace.ITU709)  # what players take untagged files of high definition for
    if frame.color_trc in _HDR_CURVES or frame.color_primaries in _WIDE_GAMUTS:
        told |= {"dst_color_trc": int(ColorTrc.BT709), "dst_color_primaries": int(ColorPrimaries.BT709),
                 "dst_color_range": int(ColorRange.JPEG)}
    return told
