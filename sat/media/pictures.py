"""Reading of picture files: their formats, orientation and transparency.

Pillow decodes, and only the formats named here: others call programs (PostScript) or have no business in a prompt file.
"""
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from common.errors import DataError
from common.first_bytes import HEAD, named
from common.listing import Remarks
from media.gray_ranges import WIDE_MODES, Samples, gray_in_range
from media.picture_colors import check_coded_color, gray_to_srgb, to_srgb

logger = logging.getLogger(__name__)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
READ = "PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF are read"
MOST_PIXELS = 178_956_970  # where Pillow refuses, too: decoded, this is 2 GB
REMARK_FRAMES = "with several frames or pages: the first is used"
REMARK_EXIF = "with a damaged orientation: not turned"
# Pictures of node editors carry their whole workflow as text, beyond Pillow's limit of one text; its sum stays limited.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def load_image(path: str | Path, remarks: Remarks | None = None) -> Tensor:
    """Read a picture file as (3, H, W) float32 in [-1, 1]: sRGB, turned upright (EXIF), on white where transparent.

    `remarks` gathers what was decided about the file; without it, that is logged. Raises DataError if the file is
    missing, not a picture, damaged, too large, or has colours that cannot be brought to sRGB.
    """
    gathered = remarks if remarks is not None else Remarks("picture")
    picture, samples = _decoded(Path(path), gathered)
    if picture.mode in WIDE_MODES:
        values = np.asarray(picture)
        gray = gray_in_range(values, samples, path, gathered)
        unit = gray_to_srgb(gray, picture.info.get("icc_profile"), path, gathered)
        if isinstance(transparent := picture.info.get("transparency"), int):
            unit[values == transparent] = 1
    else:
        unit = to_srgb(picture, path, gathered)
    if remarks is None:
        gathered.warn(logger)
    return _signed(unit)


def _signed(unit: np.ndarray) -> Tensor:
    """Convert (H, W, 3) uint8, or float32 in [0, 1], to (3, H, W) in [-1, 1]; in place, as a picture may be large."""
    image = torch.from_numpy(unit).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return (image.div_(255) if unit.dtype == np.uint8 else image).mul_(2).sub_(1)


def _decoded(path: Path, remarks: Remarks) -> tuple[Image.Image, Samples]:
    """Return a file's first frame, upright, and what the file says about its samples."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"image {path} {what}: check the path after @@ in the prompt")
    with _damage_named(path), Image.open(path, formats=_formats()) as picture:
        _check_size(picture.size, path)
        check_coded_color(path, picture, remarks)
        samples = Samples.of(picture)
        picture.load()
        upright = _upright(picture, path, remarks)
        if picture.format != "MPO" and getattr(picture, "is_animated", False):  # MPO: a phone's picture and its extras
            remarks.add(REMARK_FRAMES, path)
        return upright, samples


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Context manager for decoding: Pillow's warnings are not shown, and whatever it raises becomes a DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except Exception as problem:  # a damaged file can raise anything, such as SyntaxError for a broken PNG
        raise DataError(f"image {path} {_what_is_wrong(path, problem)}") from problem


def _what_is_wrong(path: Path, problem: Exception) -> str:
    reason = " ".join(str(problem).split()) or type(problem).__name__
    if isinstance(problem, Image.DecompressionBombError):
        return f"is too large ({reason}): give one of at most {MOST_PIXELS:,} pixels"
    if isinstance(problem, PermissionError):
        return f"cannot be read ({problem.strerror})"
    with open(path, "rb") as file:
        what = named(file.read(HEAD))
    if not isinstance(problem, Image.UnidentifiedImageError):
        return f"is {what.name}, but cannot be read ({reason[:200]}): give a whole file"
    if "TIFF" in what.name:
        return f"is {what.name} of a kind that is not read, or damaged: save it with 8 bits a channel, as PNG or TIFF"
    if what.name.startswith("a picture"):
        return f"is {what.name}, damaged or not read: {READ}"
    return f"is not a picture but {what.name}: {READ}{what.remedy and '; '}{what.remedy}"


def _check_size(size: tuple[int, int], path: Path) -> None:
    width, height = size
    if width * height > MOST_PIXELS:
        raise DataError(f"image {path} is too large ({width} x {height}): give one of at most {MOST_PIXELS:,} pixels")


def _upright(picture: Image.Image, path: Path, remarks: Remarks) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF is a TIFF of its own, in which anything may be damaged
        remarks.add(REMARK_EXIF, path)
        return picture.copy()
