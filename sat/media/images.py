"""Images: reading from files, resizing to cover a shape, fitting to the models.

An image is float32 (3, H, W), a video (T, 3, H, W); both in [-1, 1], RGB.
Pillow decodes; imageio uses it for images too.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import DataError

_WIDE_MODES = ("I", "F")  # one channel of more than 8 bits, as is I;16 in its byte orders


def load_image(path: str | Path) -> Tensor:
    """Read an image file as (3, H, W) float32 in [-1, 1], turned upright (EXIF), on white where transparent.

    Raises DataError if the file is missing, not an image, truncated or too large for Pillow's limit.
    """
    if not Path(path).is_file():
        raise DataError(f"image {path} is not a file: check the path after @@ in the prompt")
    try:
        with Image.open(path) as picture:
            unit = _to_unit_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        # Pillow reports damage with any of these, even SyntaxError (for a broken PNG).
        reason = " ".join(str(problem).split())
        raise DataError(f"image {path} cannot be read ({reason}): give a whole PNG, JPEG or WebP file") from problem
    return torch.from_numpy(unit).permute(2, 0, 1).contiguous() * 2 - 1


def _to_unit_rgb(picture: Image.Image) -> np.ndarray:
    """Convert an image to RGB, (H, W, 3) float32 in [0, 1]."""
    if picture.mode in _WIDE_MODES or picture.mode.startswith("I;16"):
        gray = np.nan_to_num(np.asarray(picture, dtype=np.float32))
        # The file does not say which value is white: assume 65535 for integers (as in PNG and TIFF), 1 for floats.
        white = 1.0 if picture.mode == "F" and gray.max(initial=0) <= 1 else 65535.0
        return np.repeat(np.clip(gray / white, 0, 1)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
        return rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:])
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def resize_cover_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (..., C, H, W) in [-1, 1] to cover `size` (height, width), bicubic with antialiasing; crop the centre."""
    height, width = size
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    covering = (max(height, round(frames.shape[-2] * scale)), max(width, round(frames.shape[-1] * scale)))
    if covering != tuple(frames.shape[-2:]):
        batch = frames.reshape(-1, *frames.shape[-3:])
        # Bicubic interpolation overshoots at edges; the clamp restores the range.
        batch = F.interpolate(batch, covering, mode="bicubic", antialias=True).clamp(-1, 1)
        frames = batch.reshape(*frames.shape[:-2], *covering)
    return _center_crop(frames, size)


def _center_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(frames.shape[-2:], size, strict=True))
    return frames[..., top : top + size[0], left : left + size[1]].contiguous()


def fit_image_cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Fit the conditioning image of the 1.0 models: (3, H, W) -> (3, *size), bicubic, cropped at the centre."""
    return resize_cover_crop(image, size)


def fit_image_short_side(image: Tensor, short: int = 768, multiple: int = 16, max_long: int = 1360) -> Tensor:
    """Fit the conditioning image of the 1.5 models, whose video takes the image's shape.

    The short side becomes `short`, the long side the nearest `multiple` (Lanczos). An image whose long side would
    exceed `max_long` keeps its proportions and is cropped at both ends.
    """
    height, width = image.shape[-2:]
    proportional = short * max(height, width) / min(height, width)
    long = int(proportional / multiple + 0.5) * multiple
    resized, kept = (long, long) if long <= max_long else (round(proportional), max_long)
    if height <= width:
        return _center_crop(_resize_lanczos(image, (short, resized)), (short, kept))
    return _center_crop(_resize_lanczos(image, (resized, short)), (kept, short))


def _resize_lanczos(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by Pillow: torch has no Lanczos filter, and Pillow does not round float channels to 8 bits."""
    channels = [
        np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.LANCZOS))
        for channel in image.to(torch.float32).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(channels)).clamp(-1, 1).to(image)
