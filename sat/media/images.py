"""Images as tensors: resizing to cover a shape, fitting to the models.

An image is float32 (3, H, W), a video (T, 3, H, W); both in [-1, 1], RGB.
"""
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.listing import Remarks

REMARK_ENLARGED = "smaller than the video and enlarged"
REMARK_CROPPED = "of another shape than the video, which shows less than three quarters of each"
MOST_LOST = 0.25  # of a picture's area, before that is remarked
_MOST_SCALED = 4  # times the wanted area: more than that is not scaled in order to be cropped


def resize_cover_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (..., C, H, W) in [-1, 1] to cover `size` (height, width), bicubic with antialiasing; crop the centre.

    Of long shapes, only the part that is kept is scaled.
    """
    height, width = size
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    covering = (max(height, round(frames.shape[-2] * scale)), max(width, round(frames.shape[-1] * scale)))
    if covering == tuple(frames.shape[-2:]):
        return _center_crop(frames, size)
    if math.prod(covering) > _MOST_SCALED * math.prod(size):
        return _scaled_center(frames, covering, size, Image.Resampling.BICUBIC)
    batch = frames.reshape(-1, *frames.shape[-3:])
    # Bicubic interpolation overshoots at edges; the clamp restores the range.
    batch = F.interpolate(batch, covering, mode="bicubic", antialias=True).clamp(-1, 1)
    return _center_crop(batch.reshape(*frames.shape[:-2], *covering), size)


def _center_crop(frames: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = _margins(frames.shape[-2:], size)
    return frames[..., top : top + size[0], left : left + size[1]].contiguous()


def _margins(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns a crop of the centre leaves out, above and at the left."""
    return (shape[0] - size[0]) // 2, (shape[1] - size[1]) // 2


def _scaled_center(frames: Tensor, full: tuple[int, int], size: tuple[int, int], method: Image.Resampling) -> Tensor:
    """Return the centre, of `size`, of frames (..., H, W) scaled to `full`, without scaling the rest.

    Pillow scales a part, has a Lanczos filter (torch has none), and does not round float channels to 8 bits.
    """
    (top, left), (height, width) = _margins(full, size), frames.shape[-2:]
    box = (left * width / full[1], top * height / full[0],
           min(width, (left + size[1]) * width / full[1]), min(height, (top + size[0]) * height / full[0]))
    channels = frames.to(torch.float32).cpu().reshape(-1, *frames.shape[-2:]).numpy()
    scaled = [np.asarray(Image.fromarray(channel).resize((size[1], size[0]), method, box)) for channel in channels]
    return torch.from_numpy(np.stack(scaled)).reshape(*frames.shape[:-2], *size).clamp(-1, 1).to(frames)


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
        return _scaled_center(image, (short, resized), (short, kept), Image.Resampling.LANCZOS)
    return _scaled_center(image, (resized, short), (kept, short), Image.Resampling.LANCZOS)


def remark_fit(shape: Sequence[int], size: Sequence[int], name: str, remarks: Remarks) -> None:
    """Remark that a picture of height and width `shape` was enlarged to cover `size`, or lost much to the crop."""
    scale = max(size[0] / shape[0], size[1] / shape[1])
    lost = 1 - math.prod(size) / (math.prod(shape) * scale**2)
    sizes = f"{shape[0]} x {shape[1]} for {size[0]} x {size[1]}"
    if scale > 1:
        remarks.add(REMARK_ENLARGED, name, sizes)
    if lost > MOST_LOST:
        remarks.add(REMARK_CROPPED, name, f"{sizes}: {1 - lost:.0%} is shown")
