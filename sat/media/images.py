"""Pictures in and out of their files: decoding to [-1, 1], resizing to cover a shape, sizing for the models.

An image is float32 (3, H, W), a video (T, 3, H, W); both in [-1, 1], RGB.
Pillow decodes; it is what imageio itself reads pictures with.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import DataError

_WIDE_MODES = ("I", "F")  # and I;16 in its byte orders: one channel of more than 8 bits


def load_image(path: str | Path) -> Tensor:
    """Reads any picture as (3, H, W) float32 in [-1, 1], turned upright (EXIF), transparency laid on white.

    Raises DataError for a file that is missing, not a picture, truncated or of an absurd size.
    """
    if not Path(path).is_file():
        raise DataError(f"image {path} is not a file: check the path after @@ in the prompt")
    try:
        with Image.open(path) as picture:
            unit = _to_unit_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        # Pillow reports damage as any of these, SyntaxError (a broken PNG) included.
        reason = " ".join(str(problem).split())
        raise DataError(f"image {path} cannot be read ({reason}): give a whole PNG, JPEG or WebP file") from problem
    return torch.from_numpy(unit).permute(2, 0, 1).contiguous() * 2 - 1


def _to_unit_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]."""
    if picture.mode in _WIDE_MODES or picture.mode.startswith("I;16"):
        gray = np.nan_to_num(np.asarray(picture, dtype=np.float32))
        # The file does not say where white is: 16 bits for integers (what PNG and TIFF hold), 1 for floats.
        white = 1.0 if picture.mode == "F" and gray.max(initial=0) <= 1 else 65535.0
        return np.repeat(np.clip(gray / white, 0, 1)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
        return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def resize_cover_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scales (..., C, H, W) in [-1, 1] to cover `size` (height, width), bicubic with antialiasing; crops the centre."""
    height, width = size
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    covering = (max(height, round(frames.shape[-2] * scale)), max(width, round(frames.shape[-1] * scale)))
    if covering != tuple(frames.shape[-2:]):
        batch = frames.reshape(-1, *frames.shape[-3:])
        # A cubic overshoots at edges; the clamp keeps the range that every consumer relies on.
        batch = F.interpolate(batch, covering, mode="bicubic", antialias=True).clamp(-1, 1)
        frames = batch.reshape(*frames.shape[:-2], *covering)
    return _center_crop(frames, size)


def _center_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(frames.shape[-2:], size, strict=True))
    return frames[..., top : top + size[0], left : left + size[1]].contiguous()


def fit_image_cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The conditioning image of the 1.0 models: (3, H, W) -> (3, *size), bicubic, covering, cropped at the centre."""
    return resize_cover_crop(image, size)


def fit_image_short_side(image: Tensor, short: int = 768, multiple: int = 16, max_long: int = 1360) -> Tensor:
    """The conditioning image of the 1.5 models, whose video takes the image's shape.

    The short side becomes `short`, the long side the nearest `multiple` (Lanczos). A picture so elongated that its
    long side would pass `max_long` keeps its proportions and loses its two ends.
    """
    height, width = image.shape[-2:]
    proportional = short * max(height, width) / min(height, width)
    long = int(proportional / multiple + 0.5) * multiple
    resized, kept = (long, long) if long <= max_long else (round(proportional), max_long)
    if height <= width:
        return _center_crop(_resize_lanczos(image, (short, resized)), (short, kept))
    return _center_crop(_resize_lanczos(image, (resized, short)), (kept, short))


def _resize_lanczos(image: Tensor, size: tuple[int, int]) -> Tensor:
    """torch has no Lanczos filter; Pillow resizes float channels without rounding to 8 bits."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.LANCZOS))
        for channel in image.to(torch.float32).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).clamp(-1, 1).to(image)
