"""Tests of colour profiles and of colours other than sRGB."""
import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from common.errors import DataError
from media.pictures import load_image

# Colorants of RGB spaces relative to D50, a column a primary (ICC profiles of Apple and Adobe).
P3 = np.array([[0.51512, 0.29198, 0.1571], [0.2412, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]])
COLORS = np.array([[[200, 100, 50], [30, 160, 90], [128, 128, 128], [250, 240, 60]]], np.uint8)


def number(value):
    return struct.pack(">i", round(value * 65536))


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    """An ICC profile of version 2 with these tags."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
            b"wtpt": b"XYZ " + bytes(4) + number(0.9642) + number(1) + number(0.8249), **tags}
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content
    size = place + len(data)
    head = struct.pack(">I4sI4s4s4s6H", size, b"lcms", 0x02400000, kind, space, connection, *[2020, 1, 1] * 2)
    head += b"acsp" + bytes(28) + number(0.9642) + number(1) + number(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def gamma(value):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256)) + bytes(2)


def rgb_profile(colorants, exponent):
    tags = {}
    for i, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ " + bytes(4) + b"".join(map(number, colorants[:, i]))
        tags[f"{name}TRC".encode()] = gamma(exponent)
    return profile(b"RGB ", tags)


def by_formula(colors, colorants, exponent):
    """Colours in sRGB, 0 to 255, by the definition."""
    light = np.linalg.inv(SRGB) @ colorants @ ((colors.reshape(-1, 3) / 255) ** exponent).T
    light = light.clip(0, 1).T
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055).reshape(colors.shape)


def shown(path):
    return ((load_image(path) + 1) * 127.5).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("colorants, exponent", [(P3, 2.2), (ADOBE, 2.19921875), (SRGB, 1.0)])
def test_a_profile_is_applied(tmp_path, caplog, name, colorants, exponent):
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    Image.fromarray(COLORS).save(tmp_path / name, icc_profile=rgb_profile(colorants, exponent), **options)
    expected = by_formula(COLORS, colorants, exponent)
    assert abs(shown(tmp_path / name) - expected).max() <= 1.5 and abs(expected - COLORS).max() > 20
    assert not caplog.messages


def test_the_profile_of_srgb_changes_nothing(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(tmp_path / "a.png", icc_profile=srgb)
    assert abs(shown(tmp_path / "a.png") - photo).max() < 1e-4


def test_a_profile_is_applied_before_transparency(tmp_path):
    rgba = np.concatenate([COLORS, np.full((1, 4, 1), 128, np.uint8)], -1)
    Image.fromarray(rgba).save(tmp_path / "a.png", icc_profile=rgb_profile(ADOBE, 2.2))
    expected = by_formula(COLORS, ADOBE, 2.2) * 128 / 255 + 127
    assert abs(shown(tmp_path / "a.png") - expected).max() <= 1.5


def test_a_palette_has_the_profile_of_its_colours(tmp_path):
    Image.fromarray(COLORS).quantize(4).save(tmp_path / "a.png", icc_profile=rgb_profile(ADOBE, 2.2))
    assert abs(shown(tmp_path / "a.png") - by_formula(COLORS, ADOBE, 2.2)).max() <= 1.5


@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_a_gray_profile_is_applied_at_every_depth(tmp_path, caplog, dtype, white):
    gray, linear = np.linspace(0.1, 1, 40)[None], profile(b"GRAY", {b"kTRC": gamma(1.0)})
    Image.fromarray((gray * white).astype(dtype)).save(tmp_path / "a.tif", icc_profile=linear)
    expected = 255 * (1.055 * gray ** (1 / 2.4) - 0.055)[..., None]
    assert abs(shown(tmp_path / "a.tif") - expected).max() <= 2 and not caplog.messages


def test_gray_with_a_profile_for_colours(tmp_path):
    Image.fromarray(COLORS[..., 0]).save(tmp_path / "a.png", icc_profile=rgb_profile(SRGB, 1.0))
    assert abs(shown(tmp_path / "a.png") - by_formula(COLORS[..., :1].repeat(3, -1), SRGB, 1.0)).max() <= 1.5


@pytest.mark.parametrize("content", [b"nonsense", profile(b"GRAY", {b"kTRC": gamma(1.0)}), rgb_profile(P3, 2.2)[:300],
                                     profile(b"RGB ", {})])
def test_a_profile_that_cannot_be_used_is_said(tmp_path, caplog, content):
    Image.fromarray(COLORS).save(tmp_path / "a.png", icc_profile=content)
    assert abs(shown(tmp_path / "a.png") - COLORS).max() < 1e-4
    assert len(caplog.messages) == 1 and "a.png" in caplog.text and "profile that cannot be used" in caplog.text


def ink_profile():
    """A profile for CMYK by a table: magenta and yellow make a dull red, black ink is black, cyan does nothing."""
    lab = [(0, 128, 128) if black else (255 - 80 * magenta - 20 * yellow, 128 + 40 * magenta, 128 + 40 * yellow)
           for _, magenta, yellow, black in itertools.product((0, 1), repeat=4)]
    identity = b"".join(number(float(i % 4 == 0)) for i in range(9))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4
    table += bytes(itertools.chain(*lab)) + bytes(range(256)) * 3
    return profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_a_profile_for_inks_is_applied(tmp_path, caplog, name):
    options = {"quality": 100} if name.endswith("jpg") else {}
    inks = np.array([(255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)], np.uint8)[:, None].repeat(16, 0).repeat(16, 1)
    Image.fromarray(inks, mode="CMYK").save(tmp_path / name, icc_profile=ink_profile(), **options)
    white, red, black = shown(tmp_path / name)[8::16, 8]
    assert (white >= 254).all() and (black <= 1).all() and not caplog.messages
    middle = (155 / 255 * 100 + 16) / 116  # Lab (60.8, 40, 40), as the table says, to XYZ and sRGB
    xyz = np.array([0.9642, 1, 0.8249]) * np.array([middle + 40 / 500, middle, middle - 40 / 200]) ** 3
    light = (np.linalg.inv(SRGB) @ xyz).clip(0.0031308, 1)
    assert abs(red - 255 * (1.055 * light ** (1 / 2.4) - 0.055)).max() <= 4


def test_cmyk_without_a_profile_is_said(tmp_path, caplog):
    Image.new("CMYK", (4, 4), (0, 200, 200, 20)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = shown(tmp_path / "a.jpg")[0, 0]
    assert red > 200 and green < 80 and blue < 80 and "approximate" in caplog.text


def test_lab_is_read(tmp_path, caplog):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    colors = Image.fromarray(COLORS)
    ImageCms.profileToProfile(colors, srgb, lab, outputMode="LAB").save(tmp_path / "a.tif")
    assert abs(shown(tmp_path / "a.tif") - COLORS).max() <= 8 and not caplog.messages  # Lab has 8 bits, too


def with_chunk(path, kind, data):
    content = path.read_bytes()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content[:33] + chunk + content[33:])  # after IHDR
    return path


@pytest.mark.parametrize("transfer, says", [
    (16, "high dynamic range"), (18, "high dynamic range"), (8, "linear light")])
def test_other_light_is_refused(tmp_path, transfer, says):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"a.png is in {says}"):
        load_image(with_chunk(tmp_path / "a.png", b"cICP", bytes([9, transfer, 0, 1])))


def test_light_of_an_avif_is_looked_at(tmp_path):
    Image.fromarray(COLORS.repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.avif")
    content = (tmp_path / "a.avif").read_bytes()
    before, mark, after = content.partition(b"colrnclx")
    assert mark
    (tmp_path / "a.avif").write_bytes(before + mark + struct.pack(">HH", 9, 16) + after[4:])
    with pytest.raises(DataError, match="a.avif is in high dynamic range"):
        load_image(tmp_path / "a.avif")


def test_colours_named_by_number_are_said(tmp_path, caplog):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    load_image(with_chunk(tmp_path / "a.png", b"cICP", bytes([1, 13, 0, 1])))
    assert not caplog.messages
    Image.fromarray(COLORS).save(tmp_path / "b.png")
    load_image(with_chunk(tmp_path / "b.png", b"cICP", bytes([12, 13, 0, 1])))
    assert "neither sRGB" in caplog.text and "b.png" in caplog.text


def test_a_camera_that_writes_adobe_rgb_without_a_profile_is_said(tmp_path, caplog):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    Image.fromarray(COLORS.repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.jpg", exif=exif)
    load_image(tmp_path / "a.jpg")
    assert "neither sRGB" in caplog.text


def test_a_gamma_of_its_own_is_said(tmp_path, caplog):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    image = load_image(with_chunk(tmp_path / "a.png", b"gAMA", struct.pack(">I", 45455)))
    assert not caplog.messages
    Image.fromarray(COLORS).save(tmp_path / "b.png")
    other = load_image(with_chunk(tmp_path / "b.png", b"gAMA", struct.pack(">I", 100000)))
    assert "gamma" in caplog.text and torch.equal(image, other)
