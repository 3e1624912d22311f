"""Colours of pictures, brought to sRGB: embedded ICC profiles, CMYK, Lab, colours that a file names by number."""
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from common.errors import DataError
from common.listing import Remarks

REMARK_PROFILE = "with a colour profile that cannot be used: read as sRGB"
REMARK_CMYK = "in CMYK without a colour profile: the colours are approximate"
REMARK_CODED = "whose colours are neither sRGB nor described by a colour profile: read as sRGB"
REMARK_GAMMA = "with a gamma of its own: read as sRGB"

_HEAD = 1 << 16  # bytes in which a file names its colours
_SRGB_GAMMA, _GAMMA_TOLERANCE = 1 / 2.2, 0.02
_LINEAR, _HDR = 8, (16, 18)  # transfers of ITU-T H.273: linear light, and PQ and HLG
_SRGB_PRIMARIES = (1, 2, 5, 6)  # BT.709, not said, and BT.601, which is near
_CODES = {"PNG": (b"cICP", 1), "AVIF": (b"colrnclx", 2)}  # before the numbers, and their size in bytes
_ADOBE_RGB = "R03"  # a camera's mark in EXIF
_INTEROPERABILITY = 0xA005
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of profiles, as Pillow's modes
_PLAIN = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
_UNSEEN = 1  # of 255: what a conversion changes by rounding alone


def to_srgb(picture: Image.Image, path: str | Path, remarks: Remarks) -> np.ndarray:
    """Convert a picture of 8 bits to sRGB: (H, W, 3) uint8, or float32 in [0, 1] if it was laid on white.

    The profile is applied before transparency: half transparent pixels are mixed in sRGB.
    """
    plain = _plain(picture)
    alpha = np.asarray(plain.getchannel("A")) if plain.mode in ("LA", "RGBA") else None
    colors = plain.convert(plain.mode.removesuffix("A")) if alpha is not None else plain
    rgb = np.array(_converted(colors, picture.info.get("icc_profile"), path, remarks))
    if alpha is None or alpha.min(initial=255) == 255:
        return rgb
    cover = alpha[..., None].astype(np.float32) / 255
    return rgb.astype(np.float32) / 255 * cover + (1 - cover)


def gray_to_srgb(gray: np.ndarray, profile: bytes | None, path: str | Path, remarks: Remarks) -> np.ndarray:
    """Convert gray (H, W) in [0, 1] to (H, W, 3) float32, through its profile's curve if it has one."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    curve = np.asarray(_converted(Image.fromarray(ramp), profile, path, remarks))[0].astype(np.float32) / 255
    if np.array_equal(curve[:, 0], ramp[0].astype(np.float32) / 255):
        return np.repeat(gray[..., None], 3, axis=2)
    levels = [np.interp(gray, np.linspace(0, 1, 256), curve[:, channel]) for channel in range(3)]
    return np.stack(levels, axis=2).astype(np.float32)


def check_coded_color(path: Path, picture: Image.Image, remarks: Remarks) -> None:
    """Look at what a file says about its colours other than by a profile.

    Raises DataError for high dynamic range and linear light, which would look wrong; remarks what is read as sRGB.
    """
    primaries, transfer = _coded_color(path, picture.format)
    if transfer in (_LINEAR, *_HDR):
        kind = "linear light" if transfer == _LINEAR else "high dynamic range"
        raise DataError(f"image {path} is in {kind}, which is not read: save it in sRGB")
    if "icc_profile" in picture.info:
        return
    gamma = picture.info.get("gamma", _SRGB_GAMMA)
    if primaries not in _SRGB_PRIMARIES or _is_adobe_rgb(picture):
        remarks.add(REMARK_CODED, path)
    elif "srgb" not in picture.info and abs(gamma - _SRGB_GAMMA) > _GAMMA_TOLERANCE:
        remarks.add(REMARK_GAMMA, path, f"{gamma:g}")


def _coded_color(path: Path, kind: str | None) -> tuple[int, int]:
    """Return the numbers of primaries and transfer (ITU-T H.273) in a PNG or AVIF file; 2 stands for not said."""
    if kind not in _CODES:
        return 2, 2
    mark, size = _CODES[kind]
    with open(path, "rb") as file:
        found, code = file.read(_HEAD).partition(mark)[1:]
    if not found or len(code) < 2 * size:
        return 2, 2
    return int.from_bytes(code[:size]), int.from_bytes(code[size:2 * size])


def _is_adobe_rgb(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get_ifd(_INTEROPERABILITY).get(1) == _ADOBE_RGB
    except Exception:  # EXIF is a TIFF of its own, in which anything may be damaged
        return False


def _plain(picture: Image.Image) -> Image.Image:
    """Convert palettes and rare modes to L, RGB, CMYK or LAB, or to LA or RGBA if anything may be transparent."""
    if picture.has_transparency_data and picture.mode not in ("LA", "RGBA"):
        return picture.convert("LA" if picture.mode in ("1", "L", "La") else "RGBA")
    return picture.convert(_PLAIN.get(picture.mode, picture.mode))


def _converted(colors: Image.Image, profile: bytes | None, path: str | Path, remarks: Remarks) -> Image.Image:
    """Convert a picture (L, RGB, CMYK or LAB) to sRGB, by its profile if it has one that fits."""
    if profile:
        try:
            return _by_profile(colors, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as problem:
            remarks.add(REMARK_PROFILE, path, " ".join(str(problem).split())[:80])
    if colors.mode == "LAB":
        return _transformed(colors, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if colors.mode == "CMYK" and not profile:
        remarks.add(REMARK_CMYK, path)
    return colors.convert("RGB")


def _by_profile(colors: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Convert by a profile; one that is sRGB but for rounding changes nothing. Raises ValueError if it does not fit."""
    space = profile.profile.xcolor_space.strip()
    mode = _SPACES.get(space)
    if colors.mode == "L" and mode == "RGB":
        colors = colors.convert("RGB")
    if colors.mode != mode:
        raise ValueError(f"it is for {space}, the picture is {colors.mode}")
    if mode in ("L", "RGB"):
        sample = _sample(mode)
        change = np.asarray(_transformed(sample, profile)).astype(int) - np.asarray(sample.convert("RGB"))
        if abs(change).max() <= _UNSEEN:
            return colors.convert("RGB")
    return _transformed(colors, profile)


def _sample(mode: str) -> Image.Image:
    """Return a picture of colours all over the range of L or RGB."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3))


def _transformed(colors: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Convert to sRGB as editors and browsers do: relative to the white of the profile, with black made black."""
    converted = ImageCms.profileToProfile(
        colors, profile, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), outputMode="RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    assert converted is not None  # it is, if not converted in place
    return converted
